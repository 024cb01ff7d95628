/* Vectors of four doubles, and products of small matrices: included by the kernels once for every instruction set, under
   the names that NAME makes. Rows of matrices are padded to a multiple of 4 entries.                                 */

#ifndef INLINE
#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif
#define v4 NAME(v4)
#define v4u NAME(v4u)
#define LOAD(p) ((v4) * (const v4u *)(p))
#define STORE(p, x) (*(v4u *)(p) = (v4u)(x))
#define ALL(x) ((v4){(x), (x), (x), (x)})
#endif

typedef double v4 __attribute__((vector_size(32)));
typedef double v4u __attribute__((vector_size(32), aligned(8), may_alias));

/* rows x (4 nv) entries of C (+)= A B, A(i, l) = a[i row_a + l column_a]. */
INLINE void NAME(tile)(const int rows, const int nv, long k, const double *a, long row_a, long column_a,
                       const double *b, long row_b, double *c, long row_c, int add)
{
    v4 sum[6][2];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < nv; j++)
            sum[i][j] = add ? LOAD(c + i * row_c + 4 * j) : ALL(0.0);
    for (long l = 0; l < k; l++, a += column_a, b += row_b) {
        v4 own[2];
        UNROLL for (int j = 0; j < nv; j++)
            own[j] = LOAD(b + 4 * j);
        UNROLL for (int i = 0; i < rows; i++) {
            v4 factor = ALL(a[i * row_a]);
            UNROLL for (int j = 0; j < nv; j++)
                sum[i][j] += factor * own[j];
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < nv; j++)
            STORE(c + i * row_c + 4 * j, sum[i][j]);
}

INLINE void NAME(strip)(const int nv, long m, long k, const double *a, long row_a, long column_a, const double *b,
                        long row_b, double *c, long row_c, int add)
{
    for (; m >= 6; m -= 6, a += 6 * row_a, c += 6 * row_c)
        NAME(tile)(6, nv, k, a, row_a, column_a, b, row_b, c, row_c, add);
    if (m >= 4) {
        NAME(tile)(4, nv, k, a, row_a, column_a, b, row_b, c, row_c, add);
        m -= 4, a += 4 * row_a, c += 4 * row_c;
    }
    if (m >= 2) {
        NAME(tile)(2, nv, k, a, row_a, column_a, b, row_b, c, row_c, add);
        m -= 2, a += 2 * row_a, c += 2 * row_c;
    }
    if (m)
        NAME(tile)(1, nv, k, a, row_a, column_a, b, row_b, c, row_c, add);
}

/* C (m, wp) = A B or C += A B, for B (k, wp), wp a multiple of 4. */
static void NAME(product)(long m, long wp, long k, const double *a, long row_a, long column_a, const double *b,
                          long row_b, double *c, long row_c, int add)
{
    for (; wp >= 8; wp -= 8, b += 8, c += 8)
        NAME(strip)(2, m, k, a, row_a, column_a, b, row_b, c, row_c, add);
    if (wp)
        NAME(strip)(1, m, k, a, row_a, column_a, b, row_b, c, row_c, add);
}

static void NAME(transpose)(long rows, long columns, const double *a, long row_a, double *out, long row_out)
{
    for (long i = 0; i < columns; i++)
        for (long j = 0; j < rows; j++)
            out[i * row_out + j] = a[j * row_a + i];
}
