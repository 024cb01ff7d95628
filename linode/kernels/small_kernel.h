/* The numerics of the compiled kernel: one or many small systems, real and complex, forward and reverse.

   small.c includes this file once for every instruction set and defines NAME(x), which gives the functions their own
   names. Everything works in double; float is converted where it is read and written. A complex vector of n entries is
   a real one of w = 2 n, real and imaginary part side by side; a complex matrix that acts on rows becomes a real matrix
   of 2 n x 2 n. Rows of work arrays are padded with zeros to wp, a multiple of 4.

   eig:   kernels/modes.py has the same algorithm in torch, with its derivation.
   chain: methods/chain.py with kernels/dense.py.                                                                    */

#include "vectors.h"

/* ---- four doubles at once -------------------------------------------------------------------------------------- */

typedef long long NAME(m4) __attribute__((vector_size(32)));
typedef unsigned long long NAME(u4) __attribute__((vector_size(32)));
#define m4 NAME(m4)
#define u4 NAME(u4)
#define ALL_BITS(x) ((u4){(x), (x), (x), (x)})
#define CHOOSE(mask, yes, no) ((v4)(((m4)(mask) & (m4)(yes)) | (~(m4)(mask) & (m4)(no))))

INLINE int NAME(any)(const m4 *mask) { return ((*mask)[0] | (*mask)[1] | (*mask)[2] | (*mask)[3]) != 0; }

/* exp(x) in place of x, to about one unit of rounding; 0 and infinity where it leaves the range of doubles.
   x = k log 2 + r with |r| <= log(2) / 2, Taylor polynomial of degree 13 (the next term is 4e-18), and 2^k as two
   factors, so that results below the smallest normal number are rounded once. */
INLINE void NAME(exp4)(v4 *x)
{
    v4 y = CHOOSE(*x > ALL(710.0), ALL(710.0), *x);
    y = CHOOSE(y < ALL(-750.0), ALL(-750.0), y);
    v4 k = (y * ALL(LOG2_E) + ALL(TO_INTEGER)) - ALL(TO_INTEGER);
    v4 r = (y - k * ALL(LN2_HIGH)) - k * ALL(LN2_LOW);
    v4 p = ALL(INVERSE_FACTORIAL[13]);
    for (int j = 12; j >= 0; j--)
        p = p * r + ALL(INVERSE_FACTORIAL[j]);
    v4 half = (k * ALL(0.5) + ALL(TO_INTEGER));
    u4 first = (u4)half - (u4)ALL(TO_INTEGER);
    u4 second = ((u4)(k + ALL(TO_INTEGER)) - (u4)ALL(TO_INTEGER)) - first;
    p *= (v4)((first + ALL_BITS(1023)) << 52);
    p *= (v4)((second + ALL_BITS(1023)) << 52);
    *x = p;
}

/* sin(x) and cos(x), to about one unit of rounding, for |x| < LARGEST_ANGLE; libm beyond.
   x = k pi / 2 + r with |r| <= pi / 4: pi / 2 in three parts of 33 bits (fdlibm, e_rem_pio2.c), then the Taylor
   polynomials of degree 17 and 18 (the next terms are 8e-20 and 3e-21). */
INLINE void NAME(sincos4)(const v4 *x, v4 *sine, v4 *cosine)
{
    v4 size = CHOOSE(*x < ALL(0.0), -*x, *x);
    m4 large = (m4)(size >= ALL(LARGEST_ANGLE)) | (m4)(size != size);
    if (NAME(any)(&large)) {
        *sine = *cosine = ALL(0.0);
        for (int i = 0; i < 4; i++) {
            (*sine)[i] = sin((*x)[i]);
            (*cosine)[i] = cos((*x)[i]);
        }
        return;
    }
    v4 shifted = *x * ALL(TWO_OVER_PI) + ALL(TO_INTEGER), k = shifted - ALL(TO_INTEGER);
    v4 r = ((*x - k * ALL(HALF_PI_1)) - k * ALL(HALF_PI_2)) - k * ALL(HALF_PI_3), rr = r * r;
    v4 s = ALL(INVERSE_FACTORIAL[17]), c = ALL(INVERSE_FACTORIAL[18]);
    for (int j = 15; j >= 3; j -= 2) {
        s = ALL(INVERSE_FACTORIAL[j]) - rr * s;
        c = ALL(INVERSE_FACTORIAL[j + 1]) - rr * c;
    }
    c = ALL(INVERSE_FACTORIAL[2]) - rr * c;
    s = r - r * rr * s;
    c = ALL(1.0) - rr * c;
    u4 quadrant = (u4)shifted, odd = ALL_BITS(0) - (quadrant & ALL_BITS(1));
    u4 sine_sign = (quadrant & ALL_BITS(2)) << 62, cosine_sign = ((quadrant + ALL_BITS(1)) & ALL_BITS(2)) << 62;
    *sine = (v4)((u4)CHOOSE(odd, c, s) ^ sine_sign);
    *cosine = (v4)((u4)CHOOSE(odd, s, c) ^ cosine_sign);
}

/* exp(x) - 1 and cos(y) - 1 for |x|, |y| <= 1, free of cancellation: Taylor polynomials, the next terms below 1e-17. */
INLINE void NAME(less_one4)(const v4 *x, const v4 *y, v4 *exp_less_1, v4 *cos_less_1)
{
    v4 e = ALL(INVERSE_FACTORIAL[18]), yy = *y * *y, c = ALL(INVERSE_FACTORIAL[18]);
    for (int j = 17; j >= 1; j--)
        e = e * *x + ALL(INVERSE_FACTORIAL[j]);
    for (int j = 16; j >= 2; j -= 2)
        c = ALL(INVERSE_FACTORIAL[j]) - yy * c;
    *exp_less_1 = e * *x;
    *cos_less_1 = -yy * c;
}

/* ---- products of small matrices ------------------------------------------------------------------------------ */

/* Square matrices of w x w in rows of wp. */
#define MATMUL(A, B, C, add) NAME(product)(w, wp, w, A, wp, 1, B, wp, C, wp, add)   /* C (+)= A B */
#define MATMUL_T(A, B, C, add) NAME(product)(w, wp, w, A, 1, wp, B, wp, C, wp, add) /* C (+)= A^T B */

static double NAME(size)(long n, const double *x)
{
    v4 sum = ALL(0.0);
    for (long i = 0; i < n; i += 4)
        sum += LOAD(x + i) * LOAD(x + i);
    return sqrt((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

static void NAME(add_multiple)(long n, double factor, const double *x, double *y)
{
    for (long i = 0; i < n; i += 4)
        STORE(y + i, LOAD(y + i) + ALL(factor) * LOAD(x + i));
}

/* The smallest and the largest of `start` and n numbers, or of their moduli; 1 where there is a NaN. */
#define BOUNDS(name, type, of)                                                                                         \
    static int NAME(name)(const type *x, long long n, double *least, double *most)                                    \
    {                                                                                                                  \
        v4 low[2] = {ALL(*least), ALL(*least)}, high[2] = {ALL(*most), ALL(*most)};                                   \
        m4 nan[2] = {low[0] != low[0], low[0] != low[0]};                                                             \
        long long i = 0;                                                                                               \
        for (; i + 8 <= n; i += 8)                                                                                     \
            UNROLL for (int k = 0; k < 2; k++) {                                                                       \
                v4 y = {x[i + 4 * k], x[i + 4 * k + 1], x[i + 4 * k + 2], x[i + 4 * k + 3]};                           \
                y = of(y);                                                                                             \
                low[k] = CHOOSE(y < low[k], y, low[k]), high[k] = CHOOSE(y > high[k], y, high[k]);                     \
                nan[k] |= (m4)(y != y);                                                                                \
            }                                                                                                          \
        for (; i < n; i++) {                                                                                           \
            v4 y = ALL((double)x[i]);                                                                                  \
            y = of(y);                                                                                                 \
            low[0] = CHOOSE(y < low[0], y, low[0]), high[0] = CHOOSE(y > high[0], y, high[0]);                         \
            nan[0] |= (m4)(y != y);                                                                                    \
        }                                                                                                              \
        for (int k = 0; k < 8; k++) {                                                                                  \
            *least = fmin(*least, low[k / 4][k % 4]), *most = fmax(*most, high[k / 4][k % 4]);                         \
        }                                                                                                              \
        return NAME(any)(&nan[0]) || NAME(any)(&nan[1]);                                                              \
    }
#define ITSELF(y) (y)
#define SIZE_OF(y) ((v4)((m4)(y) & ~(m4)ALL(-0.0)))
BOUNDS(bounds, double, ITSELF)
BOUNDS(sizes, double, SIZE_OF)
BOUNDS(sizes_of_floats, float, SIZE_OF)

/* ---- eig: functions of time ---------------------------------------------------------------------------------- */

/* F (nf, BLOCK) for BLOCK times t. Of a real system: exp(alpha t) cos(omega t) or exp(alpha t) of the p modes kept, then
   exp(alpha t) sin(omega t) of the m that stand for pairs. Of a complex one (m = p = n): n cosines, then n sines.
   Where `less` is given it gets the same with 1 taken off the leading p rows at times with |t| largest < 1. */
static void NAME(functions)(long p, long m, const double *lam, double largest, const double *t, long count, double *F,
                            double *less)
{
    for (long k = 0; k < p; k++) {
        v4 alpha = ALL(lam[2 * k]), omega = ALL(lam[2 * k + 1]);
        double *cosines = F + k * BLOCK, *sines = F + (p + k) * BLOCK;
        for (long i = 0; i < count; i += 4) {
            v4 time = LOAD(t + i), growth = alpha * time, c, s;
            NAME(exp4)(&growth);
            if (k < m) {
                v4 angle = omega * time;
                NAME(sincos4)(&angle, &s, &c);
                STORE(sines + i, growth * s);
                STORE(cosines + i, growth * c);
            } else
                STORE(cosines + i, growth);
        }
        if (!less)
            continue;
        memcpy(less + k * BLOCK, cosines, sizeof(double) * count);
        if (k < m)
            memcpy(less + (p + k) * BLOCK, sines, sizeof(double) * count);
        for (long i = 0; i < count; i += 4) {
            v4 time = LOAD(t + i), size = CHOOSE(time < ALL(0.0), -time, time);
            m4 is_short = (m4)(size * ALL(largest) < ALL(1.0));
            if (!NAME(any)(&is_short))
                continue;
            v4 x = CHOOSE(is_short, alpha * time, ALL(0.0)), y = CHOOSE(is_short, omega * time, ALL(0.0)), e, c;
            NAME(less_one4)(&x, &y, &e, &c);
            if (k >= m)
                c = ALL(0.0);
            STORE(less + k * BLOCK + i, CHOOSE(is_short, e + c + e * c, LOAD(cosines + i)));
        }
    }
}

/* ---- eig: split planes of the factors ------------------------------------------------------------------------- */

/* What the eigenpairs of one system give: real and imaginary parts apart, rows of np. */
typedef struct {
    long n, np, p, m, w, wp, nf; /* p modes kept, m of them pairs; nf functions of time; w entries of a state */
    int is_complex;
    const double *lam;
    double largest;                        /* |lambda| */
    double *inv_r, *inv_i;                 /* V^-1 (n, np) */
    double *v_r, *v_i;                     /* V (n, np) */
    double *vh_r, *vh_i;                   /* V^H (n, np), rows of modes that stand for pairs twice as large in `kept` */
    double *kept_r, *kept_i;
} NAME(Factors);
#define Factors NAME(Factors)

static long NAME(factor_doubles)(long n) { return 8 * n * PADDED(n); }

static void NAME(set_factors)(Factors *f, const Arguments *task, long s, double *memory, int for_gradients)
{
    long n = task->n, np = PADDED(n), size = n * np;
    const double *plan = task->plan + s * eig_numbers(n), *V = plan + HEADER + 2 * n, *V_inv = V + 2 * n * n;
    f->n = n, f->np = np, f->is_complex = task->is_complex, f->lam = plan + HEADER;
    f->m = task->is_complex ? n : (long)plan[PAIRS];
    f->p = task->is_complex ? n : n - f->m;
    f->w = task->is_complex ? 2 * n : n, f->wp = PADDED(f->w), f->nf = f->p + f->m;
    f->inv_r = memory, f->inv_i = memory + size, f->v_r = memory + 2 * size, f->v_i = memory + 3 * size;
    f->vh_r = memory + 4 * size, f->vh_i = memory + 5 * size, f->kept_r = memory + 6 * size, f->kept_i = memory + 7 * size;
    memset(memory, 0, sizeof(double) * 8 * size);
    for (long i = 0; i < n; i++)
        for (long j = 0; j < n; j++) {
            long own = i * np + j, from = 2 * (i * n + j);
            f->v_r[own] = V[from], f->v_i[own] = V[from + 1];
            f->inv_r[own] = V_inv[from], f->inv_i[own] = V_inv[from + 1];
        }
    if (!for_gradients)
        return;
    f->largest = 0;
    for (long j = 0; j < n; j++)
        f->largest = fmax(f->largest, MODULUS(f->lam[2 * j], f->lam[2 * j + 1]));
    for (long j = 0; j < n; j++) {
        double weight = !f->is_complex && j < f->m ? 2.0 : 1.0;
        for (long i = 0; i < n; i++) {
            f->vh_r[j * np + i] = f->v_r[i * np + j], f->vh_i[j * np + i] = -f->v_i[i * np + j];
            f->kept_r[j * np + i] = weight * f->v_r[i * np + j], f->kept_i[j * np + i] = -weight * f->v_i[i * np + j];
        }
    }
}

/* c = V^-1 z0, of all n modes, for z0 as (w,). */
static void NAME(coefficients)(const Factors *f, const double *z0, double *c_r, double *c_i)
{
    for (long j = 0; j < f->n; j++) {
        double re = 0, im = 0;
        for (long i = 0; i < f->n; i++) {
            double a = f->inv_r[j * f->np + i], b = f->inv_i[j * f->np + i];
            double x = f->is_complex ? z0[2 * i] : z0[i], y = f->is_complex ? z0[2 * i + 1] : 0.0;
            re += a * x - b * y, im += a * y + b * x;
        }
        c_r[j] = re, c_i[j] = im;
    }
}

/* K (nf, wp): F^T K are the states with coefficients c. */
static void NAME(synthesis)(const Factors *f, const double *c_r, const double *c_i, double *K)
{
    memset(K, 0, sizeof(double) * f->nf * f->wp);
    for (long k = 0; k < f->p; k++) {
        double weight = f->is_complex || k >= f->m ? 1.0 : 2.0;
        double *cosines = K + k * f->wp, *sines = K + (f->p + k) * f->wp;
        for (long i = 0; i < f->n; i++) {
            double a = f->v_r[i * f->np + k], b = f->v_i[i * f->np + k];
            double re = weight * (a * c_r[k] - b * c_i[k]), im = weight * (a * c_i[k] + b * c_r[k]);
            if (f->is_complex)
                cosines[2 * i] = re, cosines[2 * i + 1] = im, sines[2 * i] = -im, sines[2 * i + 1] = re;
            else {
                cosines[i] = re;
                if (k < f->m)
                    sines[i] = -im;
            }
        }
    }
}

/* ---- eig: states ----------------------------------------------------------------------------------------------- */

static long NAME(eig_states_doubles)(const Arguments *task)
{
    long n = task->n, wp = PADDED(task->is_complex ? 2 * n : n), nf = task->is_complex ? 2 * n : n;
    return NAME(factor_doubles)(n) + GROUP * (nf + 1) * wp + nf * BLOCK + BLOCK + BLOCK * wp + 2 * n;
}

static void NAME(eig_states)(const Arguments *task, long s, long part, double *memory)
{
    Range own = range_of(task, part);
    Factors f;
    NAME(set_factors)(&f, task, s, memory, 0);
    double *K = memory + NAME(factor_doubles)(f.n), *starts = K + GROUP * f.nf * f.wp, *F = starts + GROUP * f.wp;
    double *t = F + f.nf * BLOCK, *z = t + BLOCK, *c = z + BLOCK * f.wp;
    int is_shared = task->t.stride[1] == 0;
    for (long r0 = own.r0; r0 < own.r1; r0 += GROUP) {
        long r1 = r0 + GROUP < own.r1 ? r0 + GROUP : own.r1;
        for (long r = r0; r < r1; r++) {
            read_rows(&task->z0, s, r, 0, 1, f.n, starts + (r - r0) * f.wp, f.wp);
            NAME(coefficients)(&f, starts + (r - r0) * f.wp, c, c + f.n);
            NAME(synthesis)(&f, c, c + f.n, K + (r - r0) * f.nf * f.wp);
        }
        for (long i = own.i0; i < own.i1; i += BLOCK) {
            long count = own.i1 - i < BLOCK ? own.i1 - i : BLOCK;
            for (long r = r0; r < r1; r++) {
                if (r == r0 || !is_shared) {
                    read_times(&task->t, s, r, i, count, t);
                    NAME(functions)(f.p, f.m, f.lam, 0.0, t, PADDED(count), F, NULL);
                }
                NAME(product)(count, f.wp, f.nf, F, 1, BLOCK, K + (r - r0) * f.nf * f.wp, f.wp, z, f.wp, 0);
                for (long q = 0; q < count; q++) /* z0 at time 0, to the last bit */
                    if (t[q] == 0)
                        memcpy(z + q * f.wp, starts + (r - r0) * f.wp, sizeof(double) * f.w);
                write_rows(task->z, task->z_code, ((s * task->R + r) * task->T + i) * f.n, count, f.n, z, f.wp);
            }
        }
    }
}

/* ---- eig: gradients -------------------------------------------------------------------------------------------- */

/* sum_i ghat_i conj(D(t_i)) with D the divided difference of exp(x t) at lambda_j and lambda_k, for ghat (count). */
static void NAME(add_divided)(const double *lam_j, const double *lam_k, const double *t, const double *ghat_r,
                              const double *ghat_i, long count, double *sum_r, double *sum_i)
{
    v4 re = ALL(0.0), im = ALL(0.0);
    for (long i = 0; i < count; i += 4) {
        v4 time = LOAD(t + i), x = ALL(lam_j[0] - lam_k[0]) * time, y = ALL(lam_j[1] - lam_k[1]) * time;
        m4 swap = (m4)(x > ALL(0.0)); /* the larger exponential goes outside, so that neither overflows alone */
        x = CHOOSE(swap, -x, x), y = CHOOSE(swap, -y, y);
        v4 growth = CHOOSE(swap, ALL(lam_j[0]), ALL(lam_k[0])) * time;
        v4 angle = CHOOSE(swap, ALL(lam_j[1]), ALL(lam_k[1])) * time, s, c;
        NAME(exp4)(&growth);
        NAME(sincos4)(&angle, &s, &c);
        /* phi(w) = (exp(w) - 1) / w, w = x + i y: by its series for |w| < 1, which is phi itself, free of cancellation */
        v4 size = x * x + y * y, phi_r = ALL(INVERSE_FACTORIAL[19]), phi_i = ALL(0.0);
        m4 near = (m4)(size < ALL(1.0));
        v4 a = CHOOSE(near, x, ALL(0.0)), b = CHOOSE(near, y, ALL(0.0));
        for (int j = 18; j >= 1; j--) {
            v4 next = phi_r * a - phi_i * b + ALL(INVERSE_FACTORIAL[j]);
            phi_i = phi_r * b + phi_i * a;
            phi_r = next;
        }
        m4 far = ~near;
        if (NAME(any)(&far)) {
            v4 e = x, sine, cosine, d = CHOOSE(near, ALL(1.0), size);
            NAME(exp4)(&e);
            NAME(sincos4)(&y, &sine, &cosine);
            v4 num_r = e * cosine - ALL(1.0), num_i = e * sine;
            phi_r = CHOOSE(near, phi_r, (num_r * x + num_i * y) / d);
            phi_i = CHOOSE(near, phi_i, (num_i * x - num_r * y) / d);
        }
        v4 D_r = time * growth * (c * phi_r - s * phi_i), D_i = time * growth * (c * phi_i + s * phi_r);
        v4 g_r = LOAD(ghat_r + i), g_i = LOAD(ghat_i + i);
        re += g_r * D_r + g_i * D_i, im += g_i * D_r - g_r * D_i;
    }
    *sum_r += (re[0] + re[1]) + (re[2] + re[3]), *sum_i += (im[0] + im[1]) + (im[2] + im[3]);
}

/* ghat (BLOCK + BLOCK): real and imaginary parts of V^H g for mode j, twice as large where it stands for a pair. */
static void NAME(project)(const Factors *f, long j, const double *g, long count, double *ghat)
{
    memset(ghat, 0, sizeof(double) * 2 * BLOCK);
    for (long q = 0; q < count; q++, g += f->wp)
        for (long l = 0; l < f->n; l++) {
            double a = f->kept_r[j * f->np + l], b = f->kept_i[j * f->np + l];
            double u = f->is_complex ? g[2 * l] : g[l], v = f->is_complex ? g[2 * l + 1] : 0.0;
            ghat[q] += a * u - b * v, ghat[BLOCK + q] += a * v + b * u;
        }
}

/* What a part of the trajectories, or of their times, adds to the gradients, in the eigenbasis; all of it sums up. */
typedef struct {
    double *M_r, *M_i;         /* (p, np): d c^H */
    double *right_r, *right_i; /* (n, np): conj(c_k) Q_k as columns */
    double *diag_r, *diag_i;   /* (np,): the diagonal of M */
    double *a;                 /* (R, wp); none where parts have trajectories of their own, and write it */
    double *t_max;
} NAME(Sums);
#define Sums NAME(Sums)

static long NAME(eig_part_numbers)(const Arguments *task)
{
    long n = task->n, np = PADDED(n), wp = PADDED(task->is_complex ? 2 * n : n);
    return 4 * n * np + 2 * np + (splits_trajectories(task) ? 0 : task->R * wp) + 4;
}

static Sums NAME(sums_at)(const Arguments *task, double *memory)
{
    long n = task->n, np = PADDED(n), size = n * np;
    double *diag = memory + 4 * size, *a = diag + 2 * np;
    return (Sums){memory, memory + size, memory + 2 * size, memory + 3 * size, diag, diag + np,
                  a, memory + NAME(eig_part_numbers)(task) - 1};
}

static long NAME(eig_part_doubles)(const Arguments *task)
{
    long n = task->n, np = PADDED(n), wp = PADDED(task->is_complex ? 2 * n : n), nf = task->is_complex ? 2 * n : n;
    return NAME(factor_doubles)(n) + GROUP * (2 * nf + 1) * wp + 3 * nf * BLOCK + BLOCK + BLOCK * wp + 8 * np + wp;
}

static long NAME(eig_vjp_doubles)(const Arguments *task)
{
    long n = task->n, np = PADDED(n), wp = PADDED(task->is_complex ? 2 * n : n);
    return NAME(factor_doubles)(n) + NAME(eig_part_doubles)(task) + NAME(eig_part_numbers)(task) + 7 * n * np + 2 * np +
           BLOCK + BLOCK * wp + wp + 2 * BLOCK;
}

/* Q_k (n,) of mode k, real and imaginary part, from the sums over time of real functions times g. */
static void NAME(mode_sum)(const Factors *f, const double *sums, long k, double *q_r, double *q_i)
{
    long other = f->is_complex || k < f->m ? f->p + k : k >= f->p ? k - f->p : -1;
    long cosine = !f->is_complex && k >= f->p ? k - f->p : k, sine = !f->is_complex && k >= f->p ? k : other;
    double sign = !f->is_complex && k >= f->p ? 1.0 : -1.0;
    const double *a = sums + cosine * f->wp, *b = sine < 0 ? NULL : sums + sine * f->wp;
    for (long i = 0; i < f->n; i++) {
        if (f->is_complex)
            q_r[i] = a[2 * i] + b[2 * i + 1], q_i[i] = a[2 * i + 1] - b[2 * i];
        else
            q_r[i] = a[i], q_i[i] = b ? sign * b[i] : 0.0;
    }
}

static void NAME(add_part)(const Arguments *task, const Factors *f, long s, long part, double *memory, const Sums *out)
{
    Range range = range_of(task, part);
    long n = f->n, np = f->np, p = f->p, wp = f->wp, nf = f->nf, rows = 2 * nf + 1;
    double *sums = memory, *F = sums + GROUP * rows * wp, *weights = F + nf * BLOCK, *t = weights + 2 * nf * BLOCK;
    double *g = t + BLOCK, *c_r = g + BLOCK * wp, *c_i = c_r + np, *d_r = c_i + np, *d_i = d_r + np, *q_r = d_i + np;
    double *q_i = q_r + np, *e_r = q_i + np, *e_i = e_r + np, *start = e_i + np, t_max = 0;
    double row[2 * MOST_STATES];
    int is_shared = task->t.stride[1] == 0;
    for (long r0 = range.r0; r0 < range.r1; r0 += GROUP) {
        long r1 = r0 + GROUP < range.r1 ? r0 + GROUP : range.r1;
        memset(sums, 0, sizeof(double) * (r1 - r0) * rows * wp);
        for (long i = range.i0; i < range.i1; i += BLOCK) {
            long count = range.i1 - i < BLOCK ? range.i1 - i : BLOCK;
            for (long r = r0; r < r1; r++) {
                if (r == r0 || !is_shared) {
                    read_times(&task->t, s, r, i, count, t);
                    NAME(functions)(p, f->m, f->lam, f->largest, t, PADDED(count), F, weights);
                    for (long k = 0; k < nf; k++)
                        for (long q = 0; q < PADDED(count); q += 4)
                            STORE(weights + (nf + k) * BLOCK + q, LOAD(F + k * BLOCK + q) * LOAD(t + q));
                    for (long q = 0; q < count; q++)
                        t_max = fmax(t_max, fabs(t[q]));
                }
                double *own = sums + (r - r0) * rows * wp;
                read_rows(&task->g, s, r, i, count, n, g, wp);
                NAME(product)(2 * nf, wp, count, weights, BLOCK, 1, g, wp, own, wp, 1);
                for (long q = 0; q < count; q++)
                    if (fabs(t[q]) * f->largest < 1)
                        NAME(add_multiple)(wp, 1.0, g + q * wp, own + 2 * nf * wp);
            }
        }
        for (long r = r0; r < r1; r++) {
            double *own = sums + (r - r0) * rows * wp, *at_short = own + 2 * nf * wp;
            double *a = splits_trajectories(task) ? row : out->a + r * wp;
            if (a == row)
                memset(row, 0, sizeof row);
            read_rows(&task->z0, s, r, 0, 1, n, start, wp);
            NAME(coefficients)(f, start, c_r, c_i);
            for (long k = 0; k < n; k++) {
                NAME(mode_sum)(f, own, k, q_r, q_i);
                double x = c_r[k], y = c_i[k];
                for (long i = 0; i < n; i++) {
                    out->right_r[i * np + k] += x * q_r[i] + y * q_i[i];
                    out->right_i[i * np + k] += x * q_i[i] - y * q_r[i];
                }
                if (k >= p)
                    continue;
                double re = 0, im = 0, short_r = 0, short_i = 0;
                for (long i = 0; i < n; i++) {
                    double u = f->kept_r[k * np + i], v = f->kept_i[k * np + i];
                    re += u * q_r[i] - v * q_i[i], im += u * q_i[i] + v * q_r[i];
                    double g_r = f->is_complex ? at_short[2 * i] : at_short[i];
                    double g_i = f->is_complex ? at_short[2 * i + 1] : 0.0;
                    short_r += u * g_r - v * g_i, short_i += u * g_i + v * g_r;
                }
                d_r[k] = re, d_i[k] = im, e_r[k] = re + short_r, e_i[k] = im + short_i;
                NAME(mode_sum)(f, own + nf * wp, k, q_r, q_i);
                re = im = 0;
                for (long i = 0; i < n; i++) {
                    double u = f->kept_r[k * np + i], v = f->kept_i[k * np + i];
                    re += u * q_r[i] - v * q_i[i], im += u * q_i[i] + v * q_r[i];
                }
                out->diag_r[k] += re * x + im * y, out->diag_i[k] += im * x - re * y;
            }
            for (long j = 0; j < p; j++)
                for (long k = 0; k < n; k++) {
                    out->M_r[j * np + k] += d_r[j] * c_r[k] + d_i[j] * c_i[k];
                    out->M_i[j * np + k] += d_i[j] * c_r[k] - d_r[j] * c_i[k];
                }
            for (long j = 0; j < p; j++) /* V^-H e, row by row of V^-1 */
                for (long i = 0; i < n; i++) {
                    double u = f->inv_r[j * np + i], v = -f->inv_i[j * np + i];
                    if (f->is_complex)
                        a[2 * i] += u * e_r[j] - v * e_i[j], a[2 * i + 1] += u * e_i[j] + v * e_r[j];
                    else
                        a[i] += u * e_r[j] - v * e_i[j];
                }
            if (a == row)
                write_rows(task->a, task->z_code, (s * task->R + r) * n, 1, n, row, 0);
        }
    }
    *out->t_max = fmax(*out->t_max, t_max);
}

/* One part of a single system, into its place of task->partial. */
static void NAME(eig_part)(const Arguments *task, long s, long part, double *memory)
{
    Factors f;
    double *own = task->partial + part * NAME(eig_part_numbers)(task);
    Sums sums = NAME(sums_at)(task, own);
    memset(own, 0, sizeof(double) * NAME(eig_part_numbers)(task));
    NAME(set_factors)(&f, task, s, memory, 1);
    NAME(add_part)(task, &f, s, part, memory + NAME(factor_doubles)(f.n), &sums);
}

static void NAME(eig_vjp)(const Arguments *task, long s, long part, double *memory)
{
    Factors f;
    NAME(set_factors)(&f, task, s, memory, 1);
    long n = f.n, np = f.np, p = f.p, wp = f.wp, count_of_sums = NAME(eig_part_numbers)(task);
    double *scratch = memory + NAME(factor_doubles)(n), *own = scratch + NAME(eig_part_doubles)(task);
    double *X_r = own + count_of_sums, *X_i = X_r + n * np, *dual_r = X_i + n * np, *dual_i = dual_r + n * np;
    double *gap = dual_i + n * np, *spare = gap + n * np, *c_r = spare + 2 * n * np, *c_i = c_r + np, *t = c_i + np;
    double *g = t + BLOCK, *start = g + BLOCK * wp, *ghat = start + wp; /* 2 BLOCK */
    Sums sums = NAME(sums_at)(task, own);
    memset(own, 0, sizeof(double) * count_of_sums);
    if (task->parts == 1)
        NAME(add_part)(task, &f, s, part, scratch, &sums);
    for (long q = 0; task->parts > 1 && q < task->parts; q++) {
        const double *other = task->partial + q * count_of_sums;
        for (long i = 0; i < count_of_sums - 1; i++)
            own[i] += other[i];
        *sums.t_max = fmax(*sums.t_max, other[count_of_sums - 1]);
    }
    double *M_r = sums.M_r, *M_i = sums.M_i, *right_r = sums.right_r, *right_i = sums.right_i, *diag_r = sums.diag_r;
    double *diag_i = sums.diag_i, t_max = *sums.t_max;
    for (long r = 0; !splits_trajectories(task) && r < task->R; r++)
        write_rows(task->a, task->z_code, (s * task->R + r) * n, 1, n, sums.a + r * wp, wp);
    for (long i = 0; i < n; i++)
        for (long j = 0; j < np; j++) {
            dual_r[i * np + j] = j < p ? f.inv_r[j * np + i] : 0.0;
            dual_i[i * np + j] = j < p ? -f.inv_i[j * np + i] : 0.0;
        }
    /* M = (d c^H - V^H right) / conj(lambda_j - lambda_k) */
    for (long j = 0; j < p * np; j++)
        M_r[j] = -M_r[j], M_i[j] = -M_i[j];
    NAME(product)(p, np, n, f.kept_r, np, 1, right_r, np, M_r, np, 1);
    NAME(product)(p, np, n, f.kept_r, np, 1, right_i, np, M_i, np, 1);
    for (long j = 0; j < n * np; j++)
        spare[j] = -right_i[j];
    NAME(product)(p, np, n, f.kept_i, np, 1, spare, np, M_r, np, 1);
    NAME(product)(p, np, n, f.kept_i, np, 1, right_r, np, M_i, np, 1);
    const double *header = task->plan + s * eig_numbers(n);
    const unsigned char *delicate =
        header[VERDICT] == WITH_DELICATE ? (const unsigned char *)(header + HEADER + 2 * n + 4 * n * n) : NULL;
    unsigned char *is_near = (unsigned char *)gap;
    int some_near = 0;
    for (long j = 0; j < p; j++) {
        double size_j = MODULUS(f.lam[2 * j], f.lam[2 * j + 1]);
        for (long k = 0; k < n; k++) {
            double x = f.lam[2 * j] - f.lam[2 * k], y = f.lam[2 * k + 1] - f.lam[2 * j + 1]; /* of the conjugate */
            double distance = MODULUS(x, y), larger = fmax(size_j, MODULUS(f.lam[2 * k], f.lam[2 * k + 1]));
            double *re = M_r + j * np + k, *im = M_i + j * np + k, u = x / distance / distance, v = -y / distance / distance;
            int far = distance * t_max >= NEAR && distance > NEAR_RELATIVE * larger && !(delicate && delicate[j * n + k]);
            is_near[j * n + k] = j != k && !far;
            if (j == k)
                *re = diag_r[j], *im = diag_i[j];
            else if (far) {
                double value = -(*re * u - *im * v);
                *im = -(*re * v + *im * u), *re = value;
            } else
                *re = *im = 0, some_near = 1;
        }
    }
    for (long r = 0; some_near && r < task->R; r++) { /* too close to divide by their distance: time by time */
        read_rows(&task->z0, s, r, 0, 1, n, start, wp);
        NAME(coefficients)(&f, start, c_r, c_i);
        for (long i = 0; i < task->T; i += BLOCK) {
            long count = task->T - i < BLOCK ? task->T - i : BLOCK;
            read_times(&task->t, s, r, i, count, t);
            read_rows(&task->g, s, r, i, count, n, g, wp);
            for (long j = 0; j < p; j++) {
                int has_ghat = 0;
                for (long k = 0; k < n; k++) {
                    if (!is_near[j * n + k])
                        continue;
                    if (!has_ghat)
                        NAME(project)(&f, j, g, count, ghat), has_ghat = 1;
                    double re = 0, im = 0;
                    NAME(add_divided)(f.lam + 2 * j, f.lam + 2 * k, t, ghat, ghat + BLOCK, PADDED(count), &re, &im);
                    M_r[j * np + k] += re * c_r[k] + im * c_i[k], M_i[j * np + k] += im * c_r[k] - re * c_i[k];
                }
            }
        }
    }
    /* S = V^-H M V^H */
    NAME(product)(p, np, n, M_r, np, 1, f.vh_r, np, X_r, np, 0);
    NAME(product)(p, np, n, M_r, np, 1, f.vh_i, np, X_i, np, 0);
    NAME(product)(p, np, n, M_i, np, 1, f.vh_r, np, X_i, np, 1);
    for (long j = 0; j < p * np; j++)
        M_i[j] = -M_i[j];
    NAME(product)(p, np, n, M_i, np, 1, f.vh_i, np, X_r, np, 1);
    double *out_r = spare, *out_i = spare + n * np;
    if (f.is_complex) {
        NAME(product)(n, np, p, dual_r, np, 1, X_i, np, out_i, np, 0);
        NAME(product)(n, np, p, dual_i, np, 1, X_r, np, out_i, np, 1);
    }
    for (long j = 0; j < p * np; j++)
        X_i[j] = -X_i[j];
    NAME(product)(n, np, p, dual_r, np, 1, X_r, np, out_r, np, 0);
    NAME(product)(n, np, p, dual_i, np, 1, X_i, np, out_r, np, 1);
    for (long i = 0; i < n; i++) {
        double row[2 * MOST_STATES];
        for (long j = 0; j < n; j++)
            if (f.is_complex)
                row[2 * j] = out_r[i * np + j], row[2 * j + 1] = out_i[i * np + j];
            else
                row[j] = out_r[i * np + j];
        write_rows(task->S_out, task->z_code, (s * n + i) * n, 1, n, row, 0);
    }
}

/* ---- eig: the plan --------------------------------------------------------------------------------------------- */

static long NAME(eig_plan_doubles)(const Arguments *task)
{
    long n = task->n, np = PADDED(n);
    return 4 * n * n + 11 * n * np + 70 * n;
}

/* The inverse of X (n, n) in column-major order, doubles or pairs of them, in its place; 0 where it is singular. */
static int NAME(invert)(long n, int is_complex, double *X, double *work, long n_work)
{
    int size = (int)n, info = 0, pivots[MOST_STATES], length = (int)n_work;
    if (is_complex) {
        lapack.zgetrf(&size, &size, X, &size, pivots, &info);
        if (!info)
            lapack.zgetri(&size, X, &size, pivots, work, &length, &info);
    } else {
        lapack.dgetrf(&size, &size, X, &size, pivots, &info);
        if (!info)
            lapack.dgetri(&size, X, &size, pivots, work, &length, &info);
    }
    return info == 0;
}

/* V^-1 (n, n) complex from V, by LU factors of the real basis where the system is real. */
static int NAME(inverse_basis)(long n, long p, long m, int is_complex, const double *V, double *V_inv, double *X,
                               double *work)
{
    for (long i = 0; i < n; i++)
        for (long k = 0; k < n; k++) {
            if (is_complex)
                memcpy(X + 2 * (i + k * n), V + 2 * (i * n + k), 2 * sizeof(double));
            else
                X[i + k * n] = k < p ? V[2 * (i * n + k)] : V[2 * (i * n + k - p) + 1];
        }
    if (!NAME(invert)(n, is_complex, X, work, 32 * n))
        return 0;
    for (long k = 0; k < n; k++)
        for (long i = 0; i < n; i++) {
            double *out = V_inv + 2 * (k * n + i);
            if (is_complex)
                memcpy(out, X + 2 * (k + i * n), 2 * sizeof(double));
            else if (k < m)
                out[0] = 0.5 * X[k + i * n], out[1] = -0.5 * X[p + k + i * n];
            else if (k < p)
                out[0] = X[k + i * n], out[1] = 0;
            else
                out[0] = 0.5 * X[k - p + i * n], out[1] = 0.5 * X[k + i * n];
        }
    return 1;
}

/* One Newton step on all pairs: `eigenpairs` says which errors it leaves. */
static void NAME(refine)(long n, long p, int is_complex, const double *A_r, const double *A_i, double *lam, double *V,
                         const double *V_inv, double noise, double *memory)
{
    long np = PADDED(n), pp = PADDED(p), size = n * np;
    double *v_r = memory, *v_i = v_r + size, *w_r = v_i + size, *w_i = w_r + size, *R_r = w_i + size, *R_i = R_r + size;
    double *F_r = R_i + size, *F_i = F_r + size, *minus = F_i + size;
    memset(memory, 0, sizeof(double) * 9 * size);
    for (long i = 0; i < n; i++)
        for (long j = 0; j < n; j++) {
            long from = 2 * (i * n + j), own = i * np + j;
            v_r[own] = V[from], v_i[own] = V[from + 1], w_r[own] = V_inv[from], w_i[own] = V_inv[from + 1];
            minus[own] = -w_i[own];
        }
    NAME(product)(n, pp, n, A_r, np, 1, v_r, np, R_r, np, 0);
    NAME(product)(n, pp, n, A_r, np, 1, v_i, np, R_i, np, 0);
    if (is_complex) {
        NAME(product)(n, pp, n, A_i, np, 1, v_r, np, R_i, np, 1);
        for (long j = 0; j < size; j++)
            F_r[j] = -v_i[j];
        NAME(product)(n, pp, n, A_i, np, 1, F_r, np, R_r, np, 1);
    }
    for (long i = 0; i < n; i++)
        for (long j = 0; j < p; j++) {
            double x = lam[2 * j], y = lam[2 * j + 1], a = v_r[i * np + j], b = v_i[i * np + j];
            R_r[i * np + j] -= a * x - b * y, R_i[i * np + j] -= a * y + b * x;
        }
    NAME(product)(n, pp, n, w_r, np, 1, R_r, np, F_r, np, 0);
    NAME(product)(n, pp, n, minus, np, 1, R_i, np, F_r, np, 1);
    NAME(product)(n, pp, n, w_r, np, 1, R_i, np, F_i, np, 0);
    NAME(product)(n, pp, n, w_i, np, 1, R_r, np, F_i, np, 1);
    double new_lam[2 * MOST_STATES];
    for (long j = 0; j < p; j++) {
        new_lam[2 * j] = lam[2 * j] + F_r[j * np + j], new_lam[2 * j + 1] = lam[2 * j + 1] + F_i[j * np + j];
        for (long i = 0; i < n; i++) {
            double x = lam[2 * j] - lam[2 * i], y = lam[2 * j + 1] - lam[2 * i + 1], gap = MODULUS(x, y);
            double a = F_r[i * np + j], b = F_i[i * np + j], u = x / gap / gap, v = -y / gap / gap;
            int is_used = gap > noise; /* rounding could have split closer ones: any basis of their space will do */
            F_r[i * np + j] = is_used ? a * u - b * v : 0, F_i[i * np + j] = is_used ? a * v + b * u : 0;
        }
    }
    for (long j = 0; j < size; j++)
        minus[j] = -v_i[j];
    memcpy(R_r, v_r, sizeof(double) * size), memcpy(R_i, v_i, sizeof(double) * size);
    NAME(product)(n, pp, n, v_r, np, 1, F_r, np, R_r, np, 1);
    NAME(product)(n, pp, n, minus, np, 1, F_i, np, R_r, np, 1);
    NAME(product)(n, pp, n, v_r, np, 1, F_i, np, R_i, np, 1);
    NAME(product)(n, pp, n, v_i, np, 1, F_r, np, R_i, np, 1);
    for (long j = 0; j < p; j++) {
        int is_real = !is_complex && lam[2 * j + 1] == 0, has_twin = !is_complex && lam[2 * j + 1] > 0;
        long twin = j + p; /* pairs lead */
        lam[2 * j] = new_lam[2 * j], lam[2 * j + 1] = is_real ? 0 : new_lam[2 * j + 1];
        if (has_twin)
            lam[2 * twin] = lam[2 * j], lam[2 * twin + 1] = -lam[2 * j + 1];
        for (long i = 0; i < n; i++) {
            double *own = V + 2 * (i * n + j);
            own[0] = R_r[i * np + j], own[1] = is_real ? 0 : R_i[i * np + j];
            if (has_twin)
                V[2 * (i * n + twin)] = own[0], V[2 * (i * n + twin) + 1] = -own[1];
        }
    }
}

/* The figures of `_judged` in kernels/eigenpairs.py, pair by pair of modes; what needs the condition of the problem is
   left to that. */
static int NAME(judge)(const Arguments *task, double t_max, long n, long p, const double *lam, const double *V, const double *V_inv,
                       const double *condition, double *header)
{
    unsigned char *delicate = (unsigned char *)(header + HEADER + 2 * n + 4 * n * n);
    double basis = 0, inverse = 0, most = 0, worst = 0, t_short = t_max / REACH_BACK;
    int verdict = ACCEPTED;
    for (long k = 0; k < n; k++) {
        double of_V = 0, of_inverse = 0;
        for (long i = 0; i < n; i++) {
            of_V += MODULUS(V[2 * (i * n + k)], V[2 * (i * n + k) + 1]);
            of_inverse += MODULUS(V_inv[2 * (i * n + k)], V_inv[2 * (i * n + k) + 1]);
        }
        basis = fmax(basis, of_V), inverse = fmax(inverse, of_inverse);
    }
    memset(delicate, 0, n * n);
    for (long j = 0; j < p; j++)
        for (long k = 0; k < n; k++) {
            double distance = MODULUS(lam[2 * j] - lam[2 * k], lam[2 * j + 1] - lam[2 * k + 1]) * t_short;
            double pair = condition[j] * condition[k];
            double loss = j == k || distance == 0 ? 1 : 1 / fmin(fmax(distance, NEAR), 1); /* equal ones are not subtracted */
            if (pair * loss > GRADIENT_SLACK * task->limit)
                delicate[j * n + k] = 1, verdict = WITH_DELICATE, loss = 1;
            most = fmax(most, pair), worst = fmax(worst, pair * loss);
        }
    header[KAPPA] = basis * inverse, header[AMPLIFICATION] = worst;
    if (!(header[KAPPA] <= task->limit && worst <= GRADIENT_SLACK * task->limit))
        return REFUSED;
    header[T_NEEDED] = most <= NEAR * GRADIENT_SLACK * task->limit ? 0 : t_short;
    return verdict;
}

/* Eigenpairs of system s, refined where they are graded; its header says whether they were accepted. */
static void NAME(eig_plan)(const Arguments *task, long s, long part, double *memory)
{
    (void)part;
    long n = task->n, np = PADDED(n);
    int is_complex = task->is_complex, size = (int)n, info = 0, none = 1, length = (int)(32 * n);
    double *header = task->plan + s * eig_numbers(n), *lam = header + HEADER, *V = lam + 2 * n, *V_inv = V + 2 * n * n;
    double *A_r = memory, *A_i = A_r + n * np, *a = A_i + n * np, *x = a + 2 * n * n, *work = x + 2 * n * n;
    double *values = work + 64 * n, *more = values + 4 * n, one_norm = 0;
    double row[2 * MOST_STATES + 4];
    memset(memory, 0, sizeof(double) * 2 * n * np);
    for (long i = 0; i < n; i++) {
        read_rows(&task->A, s, i, 0, 1, n, row, 0);
        for (long j = 0; j < n; j++) {
            double re = is_complex ? row[2 * j] : row[j], im = is_complex ? row[2 * j + 1] : 0.0;
            A_r[i * np + j] = re, A_i[i * np + j] = im;
            if (is_complex)
                a[2 * (i + j * n)] = re, a[2 * (i + j * n) + 1] = im;
            else
                a[i + j * n] = re;
        }
    }
    for (long j = 0; j < n; j++) {
        double sum = 0;
        for (long i = 0; i < n; i++)
            sum += is_complex ? hypot(A_r[i * np + j], A_i[i * np + j]) : fabs(A_r[i * np + j]);
        one_norm = fmax(one_norm, sum);
    }
    header[PAIRS] = header[T_NEEDED] = 0, header[VERDICT] = REFUSED, header[KAPPA] = header[AMPLIFICATION] = INFINITY;
    if (!(one_norm <= MOST_SIZE && one_norm >= 1 / MOST_SIZE))
        return;
    if (is_complex) {
        lapack.zgeev("N", "V", &size, a, &size, lam, work, &none, x, &size, work, &length, more, &info);
    } else
        lapack.dgeev("N", "V", &size, a, &size, values, values + n, work, &none, x, &size, work, &length, &info);
    if (info)
        return;
    long m = 0, p = n;
    if (is_complex) {
        for (long k = 0; k < n; k++)
            for (long i = 0; i < n; i++)
                memcpy(V + 2 * (i * n + k), x + 2 * (i + k * n), 2 * sizeof(double));
    } else {
        double *im = values + n;
        for (long k = 0; k < n; k++)
            m += im[k] > 0;
        p = n - m;
        long pair = 0, real = m;
        for (long k = 0; k < n; k++) {
            if (im[k] < 0)
                continue;
            long to = im[k] > 0 ? pair++ : real++;
            lam[2 * to] = values[k], lam[2 * to + 1] = im[k];
            if (im[k] > 0)
                lam[2 * (p + to)] = values[k], lam[2 * (p + to) + 1] = -im[k];
            for (long i = 0; i < n; i++) {
                double re = x[i + k * n], own = im[k] > 0 ? x[i + (k + 1) * n] : 0.0;
                V[2 * (i * n + to)] = re, V[2 * (i * n + to) + 1] = own;
                if (im[k] > 0)
                    V[2 * (i * n + p + to)] = re, V[2 * (i * n + p + to) + 1] = -own;
            }
        }
    }
    header[PAIRS] = (double)m;
    if (!NAME(inverse_basis)(n, p, m, is_complex, V, V_inv, x, work))
        return;
    double sum = 0, largest = 0, *condition = values; /* of the eigenvalues: columns of V have length 1 */
    int is_graded = 0, verdict = ACCEPTED;
    for (long k = 0; k < n; k++) {
        double square = 0;
        for (long i = 0; i < 2 * n; i++)
            square += V_inv[2 * k * n + i] * V_inv[2 * k * n + i];
        condition[k] = sqrt(square), sum += condition[k], largest = fmax(largest, square);
        is_graded |= one_norm * condition[k] > GRADED * MODULUS(lam[2 * k], lam[2 * k + 1]);
    }
    double kappa = sum * sqrt((double)n); /* a bound of it, and of the amplification whatever the distances are */
    header[KAPPA] = kappa, header[AMPLIFICATION] = largest / NEAR;
    if (!(kappa <= task->limit && largest <= GRADIENT_SLACK * task->limit * NEAR)) {
        verdict = NAME(judge)(task, task->latest ? task->latest[s] : task->t_max, n, p, lam, V, V_inv, condition, header);
        kappa = header[KAPPA];
        if (verdict == REFUSED)
            return;
    }
    if (is_graded) {
        double noise = MIN_GAP * DBL_EPSILON * one_norm * fmin(kappa, MAX_EXPLAINED);
        NAME(refine)(n, p, is_complex, A_r, A_i, lam, V, V_inv, noise, more + 2 * n);
        if (!NAME(inverse_basis)(n, p, m, is_complex, V, V_inv, x, work))
            return;
    }
    header[VERDICT] = verdict;
}

/* ---- chain: the plan ------------------------------------------------------------------------------------------- */

/* States are rows: with A = H (Xi^T - shift I) and F = exp(H Xi^T), z(k H) = z0 F^k and
   z((k + s) H) = exp(s H shift) sum_j s^j / j! z(k H) A^j. The plan of a system is HEADER numbers, A and F.          */

/* P[1..6], the powers of A (w, wp); partial sums U[0..3] of Horner's scheme for F without its factor, U[0] = F. */
static void NAME(step_polynomial)(long w, long wp, double *const *P, double *const *U)
{
    long size = w * wp;
    MATMUL(P[1], P[1], P[2], 0);
    MATMUL(P[2], P[1], P[3], 0);
    MATMUL(P[2], P[2], P[4], 0);
    MATMUL(P[4], P[1], P[5], 0);
    MATMUL(P[4], P[2], P[6], 0);
    for (int block = 3; block >= 0; block--) {
        double *own = U[block];
        if (block < 3)
            MATMUL(P[6], U[block + 1], own, 0);
        else
            memset(own, 0, sizeof(double) * size);
        for (int j = 1; j < 6; j++)
            NAME(add_multiple)(size, INVERSE_FACTORIAL[6 * block + j], P[j], own);
        for (long i = 0; i < w; i++)
            own[i * wp + i] += INVERSE_FACTORIAL[6 * block];
    }
}

static long NAME(chain_plan_doubles)(const Arguments *task)
{
    long w = task->is_complex ? 2 * task->n : task->n;
    return 12 * w * PADDED(w);
}

static void NAME(chain_plan)(const Arguments *task, long s, long part, double *memory)
{
    (void)part;
    long n = task->n, w = task->is_complex ? 2 * n : n, wp = PADDED(w), size = w * wp;
    double *header = task->plan + s * chain_numbers(n, task->is_complex), *A = header + HEADER, *F = A + size;
    double *P[7], *U[4], shift = 0, entry = 0, row[2 * MOST_STATES + 4];
    memset(header, 0, sizeof(double) * chain_numbers(n, task->is_complex));
    for (long i = 0; i < n; i++) {
        read_rows(&task->A, s, i, 0, 1, n, row, 0);
        for (long k = 0; k < n; k++) /* Xi[i, k], transposed */
            if (task->is_complex) {
                double re = row[2 * k], im = row[2 * k + 1];
                A[2 * k * wp + 2 * i] = re, A[2 * k * wp + 2 * i + 1] = im;
                A[(2 * k + 1) * wp + 2 * i] = -im, A[(2 * k + 1) * wp + 2 * i + 1] = re;
            } else
                A[k * wp + i] = row[k];
        shift += (task->is_complex ? row[2 * i] : row[i]) / (double)n;
    }
    if (fabs(shift) * task->t_max > MOST_UNITS)
        shift = 0;
    for (long i = 0; i < w; i++)
        A[i * wp + i] -= shift;
    for (long i = 0; i < size; i++)
        entry = fmax(entry, fabs(A[i]));
    int exponent = -1000;
    if (entry > 0)
        frexp(entry, &exponent);
    exponent = exponent > 1000 ? 1000 : exponent < -1000 ? -1000 : exponent;
    double unit = ldexp(1.0, -exponent);
    for (long i = 0; i < size; i++)
        A[i] *= unit;
    double *square = memory, *fourth = memory + size, *fifth = memory + 2 * size;
    MATMUL(A, A, square, 0);
    MATMUL(square, square, fourth, 0);
    MATMUL(fourth, A, fifth, 0);
    double copies = task->is_complex ? sqrt(2.0) : 1.0; /* the norm of a complex matrix made real is so much larger */
    double norm = NAME(size)(size, A) / copies, by_size = norm / MOST_RATIO;
    double by_powers = fmax(sqrt(sqrt(NAME(size)(size, fourth) / copies)), pow(NAME(size)(size, fifth) / copies, 0.2));
    double rate = fmax(ldexp(fmax(by_powers, by_size), exponent), fabs(shift) * REACH / MOST_SHIFT);
    double H = step_for(rate, task->t_max, by_powers > by_size ? 8 : 1);
    double scale = ldexp(H, exponent), n_nodes = task->t_max / H + 1.5;
    header[STEP] = H, header[SHIFT] = shift * H, header[BOUND] = INFINITY;
    for (long i = 0; i < size; i++)
        A[i] *= scale;
    if (n_nodes <= MOST_NODES && 1 / H < INFINITY && task->t_max <= LATEST) {
        for (int j = 2; j <= 6; j++)
            P[j] = memory + j * size;
        P[1] = A;
        for (int j = 0; j < 4; j++)
            U[j] = memory + (j == 0 ? 0 : 6 + j) * size;
        NAME(step_polynomial)(w, wp, P, U);
        double factor = exp(shift * H);
        for (long i = 0; i < size; i++)
            F[i] = factor * U[0][i];
        /* a bound, in units of rounding, of the relative error of the powers of F, in Frobenius norms: a square has
           the error 2 |F|_2 / |F^2| times that of F, and |F|^2 / |F^2| units of its own; |F|_2^2 <= |F^H F|. */
        double *power = memory + 10 * size, *next = memory + 11 * size, *gram = memory + size, *flip = memory + 2 * size;
        double own = NAME(size)(size, F) / copies, quick = exp(norm * scale) * factor / own, close = quick;
        memcpy(power, F, sizeof(double) * size);
        for (long count = 2; count < (long)n_nodes; count *= 2) {
            MATMUL(power, power, next, 0);
            double after = NAME(size)(size, next) / copies;
            quick = own / after * (2 * own * quick + own);
            NAME(transpose)(w, w, power, wp, flip, wp);
            MATMUL(flip, power, gram, 0);
            close = own / after * (2 * sqrt(NAME(size)(size, gram) / copies) * close + own);
            double *swap = power;
            power = next, next = swap, own = after;
        }
        header[BOUND] = quick <= task->limit ? quick : close;
    }
}

/* ---- chain: states --------------------------------------------------------------------------------------------- */

/* The times of one trajectory by their nodes: t = (k + s) H, in the order of k; `order` is NULL where they are so. */
typedef struct {
    long n_nodes;
    long *start; /* (n_nodes + 1,): times of node k are start[k] .. start[k + 1] */
    long *order;
    double *s;
} NAME(Times);
#define Times NAME(Times)

static int NAME(sort_times)(const Strided *t, long system, long r, long T, double H, long *node, long *order,
                            double *offset, double *scratch, long *start, Times *out)
{
    double per_step = 1 / H;
    long largest = 0, last = 0;
    int is_sorted = 1;
    read_times(t, system, r, 0, T, scratch);
    for (long i = 0; i < T; i++) {
        double x = scratch[i] * per_step;
        if (!(x >= 0 && x <= LARGEST_NODE))
            return 0;
        double k = floor(x + 0.5);
        node[i] = (long)k, offset[i] = (scratch[i] - k * H) * per_step;
        is_sorted &= node[i] >= last;
        last = node[i];
        largest = last > largest ? last : largest;
    }
    out->n_nodes = largest + 1, out->start = start, out->s = offset, out->order = NULL;
    memset(start, 0, sizeof(long) * (largest + 2));
    for (long i = 0; i < T; i++)
        start[node[i] + 1]++;
    for (long k = 0; k <= largest; k++)
        start[k + 1] += start[k];
    if (is_sorted)
        return 1;
    for (long i = 0; i < T; i++)
        order[start[node[i]]++] = i;
    for (long k = largest; k >= 0; k--) /* each start has moved on to the next one */
        start[k + 1] = start[k];
    start[0] = 0;
    memcpy(scratch, offset, sizeof(double) * T);
    for (long i = 0; i < T; i++)
        offset[i] = scratch[order[i]];
    out->order = order;
    return 1;
}

/* exp(shift s) s^j / j!, (N_TERMS, BLOCK), for up to BLOCK times. */
static void NAME(monomials)(const double *s, long count, double shift, double *M)
{
    for (long i = 0; i < PADDED(count); i += 4) {
        v4 own = i + 4 <= count ? LOAD(s + i) : ALL(0.0), x;
        for (long q = i; q < count && q < i + 4; q++)
            own[q - i] = s[q];
        x = ALL(shift) * own;
        if (shift != 0)
            NAME(exp4)(&x);
        else
            x = ALL(1.0);
        STORE(M + i, x);
        for (long j = 1; j < N_TERMS; j++) {
            x *= own * ALL(INVERSE[j]);
            STORE(M + j * BLOCK + i, x);
        }
    }
}

/* W (N_TERMS, NODES, wp): z A^j for the states at `count` nodes, which W[0] holds. */
static void NAME(terms)(long w, long wp, const double *A, long count, double *W)
{
    for (long j = 1; j < N_TERMS; j++)
        NAME(product)(count, wp, w, W + (j - 1) * NODES * wp, wp, 1, A, wp, W + j * NODES * wp, wp, 0);
}

static long NAME(chain_states_doubles)(const Arguments *task)
{
    long wp = PADDED(task->is_complex ? 2 * task->n : task->n);
    return 4 * PADDED(task->T) + LARGEST_NODE + 8 + N_TERMS * NODES * wp + N_TERMS * BLOCK + BLOCK * wp + 2 * wp;
}

static void NAME(chain_states)(const Arguments *task, long s, long part, double *memory)
{
    Range own = range_of(task, part);
    long n = task->n, w = task->is_complex ? 2 * n : n, wp = PADDED(w), T = task->T, Tp = PADDED(T);
    const double *header = task->plan + s * chain_numbers(n, task->is_complex), *A = header + HEADER, *F = A + w * wp;
    double H = header[STEP], shift = header[SHIFT], *offset = memory, *scratch = offset + Tp, *W = scratch + Tp;
    double *M = W + N_TERMS * NODES * wp, *z = M + N_TERMS * BLOCK, *x = z + BLOCK * wp, *start = x + wp;
    long *node = (long *)(start + wp), *order = node + Tp, *starts = order + Tp;
    Times times;
    for (long r = own.r0; r < own.r1; r++) {
        read_rows(&task->z0, s, r, 0, 1, n, start, wp);
        memcpy(x, start, sizeof(double) * wp);
        if ((r == own.r0 || task->t.stride[1] != 0) &&
            !NAME(sort_times)(&task->t, s, r, T, H, node, order, offset, scratch, starts, &times)) {
            *task->failed = 1;
            return;
        }
        for (long k0 = 0; k0 < times.n_nodes; k0 += NODES) {
            long count = times.n_nodes - k0 < NODES ? times.n_nodes - k0 : NODES;
            for (long k = 0; k < count; k++) {
                memcpy(W + k * wp, x, sizeof(double) * wp);
                NAME(product)(1, wp, w, W + k * wp, wp, 1, F, wp, x, wp, 0);
            }
            if (times.start[k0 + count] == times.start[k0])
                continue;
            NAME(terms)(w, wp, A, count, W);
            for (long k = 0; k < count; k++)
                for (long i = times.start[k0 + k]; i < times.start[k0 + k + 1]; i += BLOCK) {
                    long some = times.start[k0 + k + 1] - i < BLOCK ? times.start[k0 + k + 1] - i : BLOCK;
                    NAME(monomials)(times.s + i, some, shift, M);
                    NAME(product)(some, wp, N_TERMS, M, 1, BLOCK, W + k * wp, NODES * wp, z, wp, 0);
                    for (long q = 0; k0 + k == 0 && q < some; q++) /* z0 at time 0, to the last bit */
                        if (times.s[i + q] == 0)
                            memcpy(z + q * wp, start, sizeof(double) * wp);
                    long place = (s * task->R + r) * T;
                    if (!times.order)
                        write_rows(task->z, task->z_code, (place + i) * n, some, n, z, wp);
                    else
                        for (long q = 0; q < some; q++)
                            write_rows(task->z, task->z_code, (place + times.order[i + q]) * n, 1, n, z + q * wp, wp);
                }
        }
    }
}

/* ---- chain: gradients ------------------------------------------------------------------------------------------ */

static long NAME(chain_part_numbers)(const Arguments *task)
{
    long w = task->is_complex ? 2 * task->n : task->n;
    return 2 * w * PADDED(w); /* gradients with respect to A, but for F, and to F */
}

static long NAME(chain_part_doubles)(const Arguments *task)
{
    long w = task->is_complex ? 2 * task->n : task->n, wp = PADDED(w);
    return 4 * PADDED(task->T) + LARGEST_NODE + 8 + 2 * N_TERMS * NODES * wp + N_TERMS * BLOCK + BLOCK * wp + 2 * wp +
           2 * (LARGEST_NODE + 2) * wp + 2 * w * wp;
}

static long NAME(chain_vjp_doubles)(const Arguments *task)
{
    long w = task->is_complex ? 2 * task->n : task->n;
    return NAME(chain_part_doubles)(task) + NAME(chain_part_numbers)(task) + 20 * w * PADDED(w);
}

/* Adds what some trajectories give to gA and gF, and writes their dL/dz0. */
static void NAME(add_trajectories)(const Arguments *task, long s, long part, double *memory, double *gA, double *gF)
{
    Range own = range_of(task, part);
    long n = task->n, w = task->is_complex ? 2 * n : n, wp = PADDED(w), size = w * wp, T = task->T, Tp = PADDED(T);
    const double *header = task->plan + s * chain_numbers(n, task->is_complex), *A = header + HEADER, *F = A + size;
    double H = header[STEP], shift = header[SHIFT], *offset = memory, *scratch = offset + Tp, *W = scratch + Tp;
    double *gW = W + N_TERMS * NODES * wp, *M = gW + N_TERMS * NODES * wp, *g = M + N_TERMS * BLOCK, *lam = g + BLOCK * wp;
    double *Z = lam + 2 * wp, *back = Z + (LARGEST_NODE + 2) * wp, *AT = back + (LARGEST_NODE + 2) * wp, *FT = AT + size;
    long *node = (long *)(FT + size), *order = node + Tp, *starts = order + Tp;
    Times times;
    NAME(transpose)(w, w, A, wp, AT, wp);
    NAME(transpose)(w, w, F, wp, FT, wp);
    for (long i = 0; wp > w && i < w; i++) /* the padding of rows */
        memset(AT + i * wp + w, 0, sizeof(double) * (wp - w)), memset(FT + i * wp + w, 0, sizeof(double) * (wp - w));
    for (long r = own.r0; r < own.r1; r++) {
        if ((r == own.r0 || task->t.stride[1] != 0) &&
            !NAME(sort_times)(&task->t, s, r, T, H, node, order, offset, scratch, starts, &times)) {
            *task->failed = 1;
            return;
        }
        read_rows(&task->z0, s, r, 0, 1, n, Z, wp);
        for (long k = 1; k < times.n_nodes; k++)
            NAME(product)(1, wp, w, Z + (k - 1) * wp, wp, 1, F, wp, Z + k * wp, wp, 0);
        memset(lam, 0, sizeof(double) * wp);
        for (long k0 = (times.n_nodes - 1) / NODES * NODES; k0 >= 0; k0 -= NODES) {
            long count = times.n_nodes - k0 < NODES ? times.n_nodes - k0 : NODES;
            int is_used = times.start[k0 + count] > times.start[k0];
            if (is_used) {
                memcpy(W, Z + k0 * wp, sizeof(double) * count * wp);
                NAME(terms)(w, wp, A, count, W);
                for (long k = 0; k < count; k++) {
                    long first = times.start[k0 + k], stop = times.start[k0 + k + 1], i = first;
                    if (first == stop)
                        for (long j = 0; j < N_TERMS; j++)
                            memset(gW + (j * NODES + k) * wp, 0, sizeof(double) * wp);
                    for (; i < stop; i += BLOCK) {
                        long some = stop - i < BLOCK ? stop - i : BLOCK;
                        NAME(monomials)(times.s + i, some, shift, M);
                        if (!times.order)
                            read_rows(&task->g, s, r, i, some, n, g, wp);
                        else
                            for (long q = 0; q < some; q++)
                                read_rows(&task->g, s, r, times.order[i + q], 1, n, g + q * wp, wp);
                        NAME(product)(N_TERMS, wp, some, M, BLOCK, 1, g, wp, gW + k * wp, NODES * wp, i > first);
                    }
                }
                for (long j = N_TERMS - 1; j >= 1; j--) {
                    double *own = gW + j * NODES * wp, *before = own - NODES * wp;
                    NAME(product)(count, wp, w, own, wp, 1, AT, wp, before, wp, 1);
                    NAME(product)(w, wp, count, W + (j - 1) * NODES * wp, 1, wp, own, wp, gA, wp, 1);
                }
            }
            for (long k = count - 1; k >= 0; k--) {
                if (k0 + k < times.n_nodes - 1) {
                    NAME(product)(1, wp, w, lam, wp, 1, FT, wp, lam + wp, wp, 0);
                    memcpy(lam, lam + wp, sizeof(double) * wp);
                }
                if (is_used)
                    NAME(add_multiple)(wp, 1.0, gW + k * wp, lam);
                memcpy(back + (k0 + k) * wp, lam, sizeof(double) * wp);
            }
        }
        if (times.n_nodes > 1)
            NAME(product)(w, wp, times.n_nodes - 1, Z, 1, wp, back + wp, wp, gF, wp, 1);
        write_rows(task->a, task->z_code, (s * task->R + r) * n, 1, n, lam, wp);
    }
}

/* One part of a single system, into its place of task->partial. */
static void NAME(chain_part)(const Arguments *task, long s, long part, double *memory)
{
    long size = NAME(chain_part_numbers)(task);
    double *own = task->partial + part * size;
    memset(own, 0, sizeof(double) * size);
    NAME(add_trajectories)(task, s, part, memory, own, own + size / 2);
}

static void NAME(chain_vjp)(const Arguments *task, long s, long part, double *memory)
{
    long n = task->n, w = task->is_complex ? 2 * n : n, wp = PADDED(w), size = w * wp;
    double *header = task->plan + s * chain_numbers(n, task->is_complex), *A = header + HEADER, H = header[STEP];
    double shift = header[SHIFT], *gA = memory + NAME(chain_part_doubles)(task), *gF = gA + size, *matrices = gF + size;
    memset(gA, 0, sizeof(double) * 2 * size);
    if (task->parts == 1)
        NAME(add_trajectories)(task, s, part, memory, gA, gF);
    for (long q = 0; task->parts > 1 && q < task->parts; q++)
        for (long i = 0; i < 2 * size; i++)
            gA[i] += task->partial[2 * q * size + i];
    /* back through F = exp(shift) sum_j A^j / j!, by the same blocks */
    double *P[7], *U[4], *gP[7], *G = matrices + 18 * size, *next = matrices + 19 * size;
    P[1] = A;
    for (int j = 2; j <= 6; j++)
        P[j] = matrices + (j - 2) * size;
    for (int j = 0; j < 4; j++)
        U[j] = matrices + (5 + j) * size;
    for (int j = 1; j <= 6; j++)
        gP[j] = matrices + (8 + j) * size;
    double *flip = matrices + 15 * size;
    NAME(step_polynomial)(w, wp, P, U);
    memset(gP[1], 0, sizeof(double) * 6 * size);
    double factor = exp(shift);
    for (long i = 0; i < size; i++)
        G[i] = factor * gF[i];
    for (int block = 0; block < 4; block++) {
        for (int j = 1; j < 6; j++)
            NAME(add_multiple)(size, INVERSE_FACTORIAL[6 * block + j], G, gP[j]);
        if (block == 3)
            break;
        NAME(transpose)(w, w, U[block + 1], wp, flip, wp);
        MATMUL(G, flip, gP[6], 1);
        MATMUL_T(P[6], G, next, 0);
        double *swap = G;
        G = next, next = swap;
    }
    static const int factors[5][2] = {{4, 2}, {4, 1}, {2, 2}, {2, 1}, {1, 1}}; /* A^6, A^5, ..., A^2 */
    for (int j = 6; j >= 2; j--) {
        int left = factors[6 - j][0], right = factors[6 - j][1];
        NAME(transpose)(w, w, P[right], wp, flip, wp);
        MATMUL(gP[j], flip, gP[left], 1);
        MATMUL_T(P[left], gP[j], gP[right], 1);
    }
    NAME(add_multiple)(size, 1.0, gP[1], gA);
    for (long i = 0; i < n; i++) { /* Xi[i, k] from A[k, i] */
        double row[2 * MOST_STATES];
        for (long k = 0; k < n; k++)
            if (task->is_complex) {
                row[2 * k] = H * (gA[2 * k * wp + 2 * i] + gA[(2 * k + 1) * wp + 2 * i + 1]);
                row[2 * k + 1] = H * (gA[2 * k * wp + 2 * i + 1] - gA[(2 * k + 1) * wp + 2 * i]);
            } else
                row[k] = H * gA[k * wp + i];
        write_rows(task->S_out, task->z_code, (s * n + i) * n, 1, n, row, 0);
    }
}

static const Kernel NAME(kernels)[2] = {
    {NAME(eig_plan), NAME(eig_plan_doubles), NAME(eig_states), NAME(eig_states_doubles), NAME(eig_part),
     NAME(eig_part_doubles), NAME(eig_part_numbers), NAME(eig_vjp), NAME(eig_vjp_doubles)},
    {NAME(chain_plan), NAME(chain_plan_doubles), NAME(chain_states), NAME(chain_states_doubles), NAME(chain_part),
     NAME(chain_part_doubles), NAME(chain_part_numbers), NAME(chain_vjp), NAME(chain_vjp_doubles)},
};

static const Bounds NAME(look) = {NAME(bounds), NAME(sizes), NAME(sizes_of_floats)};

#undef BOUNDS
#undef ITSELF
#undef SIZE_OF
#undef m4
#undef u4
#undef ALL_BITS
#undef CHOOSE
#undef MATMUL
#undef MATMUL_T
#undef Factors
#undef Sums
#undef Times
