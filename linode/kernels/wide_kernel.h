/* Powers of exp(A H) and their action on vectors in double-double arithmetic: included by wide.c, once for every
   processor and once for those with FMA instructions, under the names that NAME makes and with HAS_FMA.

   A number is an unevaluated sum hi + lo of two doubles, about 106 bits. Matrices are stored transposed, rows padded
   to w entries, hi first and then lo: a product of one with a vector is then a sum of rows.
   Sources: Dekker (1971), Numer. Math. 18, section 5 (products); Knuth, TAOCP 2, 4.2.2 (sums); Paterson & Stockmeyer
   (1973), SIAM J. Comput. 2 (the polynomial).                                                                       */

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

/* C = A B, n x n with rows of w entries; C is neither A nor B. Rows of C do not wait for each other. */
static void NAME(matrices)(double *C, const double *A, const double *B, long n, long w)
{
    long size = n * w;
    memset(C, 0, 2 * (size_t)size * sizeof *C);
    for (long k = 0; k < n; k++)
        for (long i = 0; i < n; i++)
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

/* From B = A H, transposed, in the first matrix of `plan`: exp(A H), exp(2 A H), exp(4 A H) ... in those after it;
   spare: STEP_POWERS matrices. */
static void NAME(powers)(double *plan, long n, long w, long levels, double *spare)
{
    long size = n * w;
    double *P[STEP_POWERS + 1], *E = plan + 2 * size, *other = spare;
    P[1] = plan;
    for (long j = 2; j <= STEP_POWERS; j++) {
        P[j] = spare + 2 * size * (j - 1);
        NAME(matrices)(P[j], P[j / 2], P[j - j / 2], n, w);
    }
    memset(E, 0, 2 * (size_t)size * sizeof *E);
    for (long block = STEP_TERMS / STEP_POWERS; block >= 0; block--) { /* Horner in B^STEP_POWERS */
        const double *c = inverse_factorial[block * STEP_POWERS];
        if (block < STEP_TERMS / STEP_POWERS) {
            NAME(matrices)(other, P[STEP_POWERS], E, n, w);
            memcpy(E, other, 2 * (size_t)size * sizeof *E);
        }
        for (long j = 1; j < STEP_POWERS; j++)
            NAME(add_multiple)(E, E + size, c[2 * j], c[2 * j + 1], P[j], P[j] + size, size);
        for (long i = 0; i < n; i++) {
            double *h = E + i * w + i, *l = h + size, s = *h + c[0], v = s - *h;
            double e = ((*h - (s - v)) + (c[0] - v)) + (*l + c[1]);
            *h = s + e;
            *l = e - (*h - s);
        }
    }
    for (long level = 1; level < levels; level++, E += 2 * size)
        NAME(matrices)(E + 2 * size, E, E, n, w);
}

/* (A H)^j v / j! for j <= STATE_TERMS: hi and lo, w entries each, as v has them. */
static void NAME(terms)(double *terms, const double *plan, const double *v, long n, long w)
{
    memcpy(terms, v, 2 * (size_t)w * sizeof *terms);
    for (long j = 1; j <= STATE_TERMS; j++, terms += 2 * w) {
        double c = 1.0 / (double)j;
        NAME(apply)(terms + 2 * w, plan, terms, n, w);
        NAME(multiply)(terms + 2 * w, terms + 3 * w, c, INVERSE_REST(c, j), w);
    }
}

/* z = exp(A (node + s) H) z0, |s| <= 1/2, from the terms of z0; v and spare hold hi and lo, w entries each; the result
   is left in v. */
static void NAME(state)(double *v, const double *plan, const double *terms, double node, double s, long n, long w,
                        double *spare)
{
    double power[2] = {1, 0};
    memcpy(v, terms, 2 * (size_t)w * sizeof *v);
    for (long j = 1; s != 0 && j <= STATE_TERMS; j++) {
        NAME(multiply)(power, power + 1, s, 0, 1);
        NAME(add_multiple)(v, v + w, power[0], power[1], terms + 2 * j * w, terms + (2 * j + 1) * w, w);
    }
    for (const double *E = plan + 2 * n * w; node >= 1; node = floor(node / 2), E += 2 * n * w)
        if (fmod(node, 2) == 1) {
            NAME(apply)(spare, E, v, n, w);
            memcpy(v, spare, 2 * (size_t)w * sizeof *v);
        }
}

#undef PRODUCT
#undef SPLITTER
