/* Powers of exp(A H) and their action on vectors in double-double arithmetic: included by wide.c, once for every
   processor and once for those with FMA instructions, under the names that NAME makes and with HAS_FMA.

   A number is an unevaluated sum hi + lo of two doubles, about 106 bits. Matrices are stored transposed, rows padded
   to w entries, hi first and then lo: a product of one with a vector is then a sum of rows.
   Sources: Dekker (1971), Numer. Math. 18, section 5 (products); Knuth, TAOCP 2, 4.2.2 (sums).                      */

/* x y = p + e exactly, where neither overflows nor underflows */
#if HAS_FMA
#define PRODUCT(p, e, x, y)                                                                                            \
    double p = (x) * (y);                                                                                              \
    double e = __builtin_fma((x), (y), -p)
#else
#define SPLITTER 134217729.0
#define PRODUCT(p, e, x, y)                                                                                            \
    double p = (x) * (y), e##_c = SPLITTER * (x), e##_d = SPLITTER * (y);                                              \
    double e##_a = e##_c - (e##_c - (x)), e##_b = e##_d - (e##_d - (y));                                               \
    double e##_r = (x) - e##_a, e##_s = (y) - e##_b;                                                                   \
    double e = ((e##_a * e##_b - p) + e##_a * e##_s + e##_r * e##_b) + e##_r * e##_s
#endif

/* out += (ah + al) b for rows of w entries */
static inline void NAME(add_multiple)(double *restrict oh, double *restrict ol, double ah, double al,
                                      const double *restrict bh, const double *restrict bl, long w)
{
    for (long i = 0; i < w; i++) {
        PRODUCT(p, e, ah, bh[i]);
        e += ah * bl[i] + al * bh[i];
        double s = oh[i] + p, v = s - oh[i];
        e += ((oh[i] - (s - v)) + (p - v)) + ol[i];
        double t = s + e;
        ol[i] = e - (t - s);
        oh[i] = t;
    }
}

/* x *= c for c = ch + cl */
static inline void NAME(multiply)(double *restrict xh, double *restrict xl, double ch, double cl, long w)
{
    for (long i = 0; i < w; i++) {
        PRODUCT(p, e, ch, xh[i]);
        e += ch * xl[i] + cl * xh[i];
        xh[i] = p + e;
        xl[i] = e - (xh[i] - p);
    }
}

/* C = A B, n x n with rows of w entries; C is neither A nor B */
static void NAME(matrices)(double *C, const double *A, const double *B, long n, long w)
{
    long size = n * w;
    memset(C, 0, 2 * (size_t)size * sizeof *C);
    for (long i = 0; i < n; i++)
        for (long k = 0; k < n; k++)
            if (A[i * w + k] != 0)
                NAME(add_multiple)(C + i * w, C + size + i * w, A[i * w + k], A[size + i * w + k], B + k * w,
                                   B + size + k * w, w);
}

/* out = M v, for M stored transposed; out and v hold hi and lo, w entries each */
static inline void NAME(apply)(double *out, const double *M, const double *v, long n, long w)
{
    memset(out, 0, 2 * (size_t)w * sizeof *out);
    for (long k = 0; k < n; k++)
        if (v[k] != 0)
            NAME(add_multiple)(out, out + w, v[k], v[w + k], M + k * w, M + n * w + k * w, w);
}

/* From B = A H, transposed, in the first matrix of `plan`: exp(A H), exp(2 A H), exp(4 A H) ... in those after it. */
static void NAME(powers)(double *plan, long n, long w, long levels, double *spare)
{
    long size = n * w;
    double *B = plan, *E = plan + 2 * size, *other = spare;
    memset(E, 0, 2 * (size_t)size * sizeof *E);
    for (long i = 0; i < n; i++)
        E[i * w + i] = 1;
    for (long j = STEP_TERMS; j > 0; j--) { /* Horner: E <- I + B E / j */
        NAME(matrices)(other, B, E, n, w);
        double c = 1.0 / (double)j, rest = INVERSE_REST(c, j);
        NAME(multiply)(other, other + size, c, rest, size);
        for (long i = 0; i < n; i++) {
            double *h = other + i * w + i, *l = h + size, s = *h + 1, v = s - 1, e = ((1 - (s - v)) + (*h - v)) + *l;
            *h = s + e;
            *l = e - (*h - s);
        }
        memcpy(E, other, 2 * (size_t)size * sizeof *E);
    }
    for (long level = 1; level < levels; level++, E += 2 * size)
        NAME(matrices)(E + 2 * size, E, E, n, w);
}

/* z = exp(A (node + s) H) z0, |s| <= 1/2; v and spare hold hi and lo, w entries each; the result is left in v. */
static void NAME(state)(double *v, const double *plan, const double *z0, double node, double s, long n, long w,
                        double *spare)
{
    long size = n * w;
    double *term = spare, *next = spare + 2 * w;
    memset(v, 0, 2 * (size_t)w * sizeof *v);
    memcpy(v, z0, (size_t)n * sizeof *v);
    memcpy(term, v, 2 * (size_t)w * sizeof *v);
    for (long j = 1; s != 0 && j <= STATE_TERMS; j++) {
        NAME(apply)(next, plan, term, n, w);
        double c = s / (double)j, rest = QUOTIENT_REST(s, c, j);
        NAME(multiply)(next, next + w, c, rest, w);
        NAME(add_multiple)(v, v + w, 1, 0, next, next + w, w);
        memcpy(term, next, 2 * (size_t)w * sizeof *v);
    }
    for (const double *E = plan + 2 * size; node >= 1; node = floor(node / 2), E += 2 * size)
        if (fmod(node, 2) == 1) {
            NAME(apply)(next, E, v, n, w);
            memcpy(v, next, 2 * (size_t)w * sizeof *v);
        }
}

#undef PRODUCT
#undef SPLITTER
