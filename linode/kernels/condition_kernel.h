/* Condition numbers from powers of exp(A H): the 2-norm of the derivative of a trajectory by its matrix, by power
   iteration in double precision. Included by wide.c after wide_kernel.h, under the names that NAME makes.

   Matrices are stored transposed, rows padded to w entries, so that states are rows: y(t) = y0 exp(A t). With a
   direction D of A H, the derivatives L_k of E_k = exp(2^k A H) follow by L_(k+1) = E_k L_k + L_k E_k, and those of the
   states, digit by digit of the number of their step, by dy <- dy E_k + y L_k. The adjoint runs back through the same.
   The powers come from the double-double arithmetic, so that no squaring has added its rounding to them.
   Source: Higham (2008), Functions of Matrices, algorithm 3.20 (power iteration); Al-Mohy & Higham (2009), SIAM J.
   Matrix Anal. 30, section 3 (the recurrence).                                                                      */

/* C += A B, n x n with rows of w entries */
static void NAME(add_product)(double *restrict C, const double *restrict A, const double *restrict B, long n, long w)
{
    for (long k = 0; k < n; k++)
        for (long i = 0; i < n; i++) {
            double a = A[i * w + k];
            if (a != 0)
                for (long j = 0; j < w; j++)
                    C[i * w + j] += a * B[k * w + j];
        }
}

/* C += A^T B */
static void NAME(add_adjoint_left)(double *restrict C, const double *restrict A, const double *restrict B, long n, long w)
{
    for (long k = 0; k < n; k++)
        for (long i = 0; i < n; i++) {
            double a = A[k * w + i];
            if (a != 0)
                for (long j = 0; j < w; j++)
                    C[i * w + j] += a * B[k * w + j];
        }
}

/* C += A B^T */
static void NAME(add_adjoint_right)(double *restrict C, const double *restrict A, const double *restrict B, long n, long w)
{
    for (long i = 0; i < n; i++)
        for (long k = 0; k < n; k++) {
            double sum = 0;
            for (long j = 0; j < w; j++)
                sum += A[i * w + j] * B[k * w + j];
            C[i * w + k] += sum;
        }
}

/* out += x M for a row x */
static inline void NAME(add_row)(double *restrict out, const double *restrict x, const double *restrict M, long n, long w)
{
    for (long k = 0; k < n; k++)
        if (x[k] != 0)
            for (long j = 0; j < w; j++)
                out[j] += x[k] * M[k * w + j];
}

/* out += x M^T for a row x */
static inline void NAME(add_row_back)(double *restrict out, const double *restrict x, const double *restrict M, long n,
                                      long w)
{
    for (long k = 0; k < n; k++) {
        double sum = 0;
        for (long j = 0; j < w; j++)
            sum += M[k * w + j] * x[j];
        out[k] += sum;
    }
}

/* M += c x^T y for rows x and y */
static inline void NAME(add_outer)(double *restrict M, double c, const double *restrict x, const double *restrict y,
                                   long n, long w)
{
    for (long k = 0; k < n; k++)
        if (x[k] != 0)
            for (long j = 0; j < w; j++)
                M[k * w + j] += c * x[k] * y[j];
}

/* The partial sums S_j of Horner's scheme for E_0, S_(j-1) = 1 + B S_j / j, and the terms y0 B^j / j!. */
static void NAME(prepare)(Way *way, const double *y0, long n, long w)
{
    long size = n * w;
    memset(way->sums, 0, sizeof(double) * (size_t)(size * (TANGENT_TERMS + 1)));
    for (long j = TANGENT_TERMS; j >= 0; j--) {
        double *own = way->sums + j * size;
        if (j < TANGENT_TERMS) {
            NAME(add_product)(own, way->plan, own + size, n, w);
            for (long i = 0; i < size; i++)
                own[i] /= (double)(j + 1);
        }
        for (long i = 0; i < n; i++)
            own[i * w + i] += 1;
    }
    memset(way->terms, 0, sizeof(double) * (size_t)(w * (TANGENT_TERMS + 1)));
    for (long k = 0; k < n; k++)
        way->terms[k] = y0[k] / way->scale[k];
    for (long j = 1; j <= TANGENT_TERMS; j++) {
        double *own = way->terms + j * w;
        NAME(add_row)(own, own - w, way->plan, n, w);
        for (long k = 0; k < w; k++)
            own[k] /= (double)j;
    }
}

/* L_k in `slopes` and the terms of the derivative of states, for the direction D. */
static void NAME(push)(Way *way, long n, long w)
{
    long size = n * w;
    double *L = way->slopes, *other = way->spare;
    if (way->used)
        memset(L, 0, sizeof(double) * (size_t)size);
    for (long j = TANGENT_TERMS; j >= 1 && way->used; j--) { /* dS_(j-1) = (D S_j + B dS_j) / j */
        memset(other, 0, sizeof(double) * (size_t)size);
        NAME(add_product)(other, way->D, way->sums + j * size, n, w);
        NAME(add_product)(other, way->plan, L, n, w);
        for (long i = 0; i < size; i++)
            L[i] = other[i] / (double)j;
    }
    const double *E = way->plan + 2 * size;
    for (long level = 1; level < way->used; level++, E += 2 * size, L += size) {
        memset(L + size, 0, sizeof(double) * (size_t)size);
        NAME(add_product)(L + size, E, L, n, w);
        NAME(add_product)(L + size, L, E, n, w);
    }
    memset(way->of_terms, 0, sizeof(double) * (size_t)(w * (TANGENT_TERMS + 1)));
    for (long j = 1; j <= TANGENT_TERMS; j++) {
        double *own = way->of_terms + j * w;
        NAME(add_row)(own, own - w, way->plan, n, w);
        NAME(add_row)(own, way->terms + (j - 1) * w, way->D, n, w);
        for (long k = 0; k < w; k++)
            own[k] /= (double)j;
    }
}

/* The state y and, unless dy is NULL, its derivative, both w entries. The states before every digit are kept, one after
   the other, in `kept`. */
static void NAME(follow)(const Way *way, double node, double s, double *y, double *dy, double *kept, long n, long w)
{
    double power = 1, *next = way->row;
    memset(y, 0, sizeof(double) * (size_t)w);
    if (dy)
        memset(dy, 0, sizeof(double) * (size_t)w);
    for (long j = 0; j <= TANGENT_TERMS; j++, power *= s)
        for (long k = 0; k < w; k++) {
            y[k] += power * way->terms[j * w + k];
            if (dy)
                dy[k] += power * way->of_terms[j * w + k];
        }
    const double *E = way->plan + 2 * n * w, *L = way->slopes;
    for (; node >= 1; node = floor(node / 2), E += 2 * n * w, L += n * w) {
        if (fmod(node, 2) != 1)
            continue;
        if (dy) {
            memset(next, 0, sizeof(double) * (size_t)w);
            NAME(add_row)(next, dy, E, n, w);
            NAME(add_row)(next, y, L, n, w);
            memcpy(dy, next, sizeof(double) * (size_t)w);
        }
        memcpy(kept, y, sizeof(double) * (size_t)w), kept += w;
        memset(next, 0, sizeof(double) * (size_t)w);
        NAME(add_row)(next, y, E, n, w);
        memcpy(y, next, sizeof(double) * (size_t)w);
    }
}

/* Adds to the cotangents of L_k and of the terms what the cotangent g of a state's derivative gives; g is lost. */
static void NAME(follow_back)(const Way *way, double node, double s, double *g, double *y, double *kept, long n, long w)
{
    long size = n * w, count = 0, levels[MOST_LEVELS];
    NAME(follow)(way, node, s, y, NULL, kept, n, w);
    for (long level = 0; node >= 1; node = floor(node / 2), level++)
        if (fmod(node, 2) == 1)
            levels[count++] = level;
    while (count-- > 0) {
        NAME(add_outer)(way->of_slopes + levels[count] * size, 1, kept + count * w, g, n, w);
        memset(way->row, 0, sizeof(double) * (size_t)w);
        NAME(add_row_back)(way->row, g, way->plan + 2 * size * (levels[count] + 1), n, w);
        memcpy(g, way->row, sizeof(double) * (size_t)w);
    }
    double power = 1;
    for (long j = 1; j <= TANGENT_TERMS; j++) {
        power *= s;
        for (long k = 0; k < w; k++)
            way->back_terms[j * w + k] += power * g[k];
    }
}

/* The cotangent of D, in D, from those of L_k and of the terms. */
static void NAME(pull)(Way *way, long n, long w)
{
    long size = n * w;
    double *other = way->spare, *G = way->of_slopes;
    for (long level = way->used - 2; level >= 0; level--) {
        const double *E = way->plan + 2 * size * (level + 1);
        NAME(add_adjoint_left)(G + level * size, E, G + (level + 1) * size, n, w);
        NAME(add_adjoint_right)(G + level * size, G + (level + 1) * size, E, n, w);
    }
    memset(way->D, 0, sizeof(double) * (size_t)size);
    for (long j = 1; j <= TANGENT_TERMS && way->used; j++) {
        for (long i = 0; i < size; i++)
            G[i] /= (double)j;
        NAME(add_adjoint_right)(way->D, G, way->sums + j * size, n, w);
        memset(other, 0, sizeof(double) * (size_t)size);
        NAME(add_adjoint_left)(other, way->plan, G, n, w);
        memcpy(G, other, sizeof(double) * (size_t)size);
    }
    for (long j = TANGENT_TERMS; j >= 1; j--) {
        double *g = way->back_terms + j * w;
        for (long k = 0; k < w; k++)
            g[k] /= (double)j;
        NAME(add_outer)(way->D, 1, way->terms + (j - 1) * w, g, n, w);
        NAME(add_row_back)(g - w, g, way->plan, n, w);
    }
}

/* 2-norm of `count` numbers; NaN where there is one */
static double NAME(norm)(const double *x, long count)
{
    double most = 0, sum = 0;
    for (long i = 0; i < count; i++)
        most = fabs(x[i]) > most || x[i] != x[i] ? fabs(x[i]) : most;
    for (long i = 0; i < count && most > 0 && most <= DBL_MAX; i++)
        sum += (x[i] / most) * (x[i] / most);
    return sum > 0 ? most * sqrt(sum) : most;
}

/* Makes X the direction of norm 1 that is nearest to it, and returns the norm before. A complex direction P + iQ is
   [[P, Q], [-Q, P]], transposed as all matrices are, and its norm is that of P and Q. */
static double NAME(directed)(double *X, int is_complex, long n, long w)
{
    long m = is_complex ? n / 2 : n;
    for (long i = 0; i < m && is_complex; i++)
        for (long j = 0; j < m; j++) {
            double *rr = X + i * w + j, *ri = rr + m, *ir = rr + m * w, *ii = ir + m;
            double re = *rr + *ii, im = *ri - *ir;
            *rr = *ii = re, *ri = im, *ir = -im;
        }
    double size = NAME(norm)(X, m * w);
    for (long i = 0; i < n * w && size > 0; i++)
        X[i] /= size;
    return size;
}

/* |J| |Xi| / |z| in 2-norms of J and z and the Frobenius norm of Xi, for one trajectory: times t >= 0 by the first way,
   others by the second. -1 where times lie beyond the powers; infinite where a state or the derivative overflows. memory: 2 n + 2 T + MOST_LEVELS + 3 rows of w entries, and 2 T numbers. */
static double NAME(condition)(Way *ways, long n, long w, int is_complex, const double *z0, const double *t, long T,
                              double *memory)
{
    long size = n * w;
    double *X = memory, *pulled = X + size, *z = pulled + size, *dz = z + T * w, *y = dz + T * w, *dy = y + w;
    double *start = dy + w, *kept = start + w, *node = kept + MOST_LEVELS * w, *rest = node + T, most = 0;
    int exponent = 0, has_times[2] = {0, 0};
    if (T == 0)
        return 0;
    for (long k = 0; k < n; k++)
        most = fmax(most, fabs(z0[k]));
    frexp(most, &exponent);
    for (long k = 0; k < n; k++) /* condition numbers do not depend on the size of z0, but floats have an end */
        start[k] = ldexp(z0[k], -exponent);
    for (int i = 0; i < 2; i++)
        ways[i].used = 0;
    for (long i = 0; i < T; i++) {
        Way *way = ways + (t[i] < 0);
        if (!way->levels)
            return -1;
        double H = way->H, at = fabs(t[i]);
        node[i] = fmin(rint(at / H), LATEST), rest[i] = fmin((at - node[i] * H) / H, 0.5);
        if (!(node[i] < ldexp(1.0, (int)way->levels)))
            return -1;
        int digits = 0;
        frexp(node[i], &digits);
        way->used = digits > way->used ? digits : way->used;
        has_times[t[i] < 0] = 1;
    }
    for (int i = 0; i < 2; i++) {
        Way *way = ways + i;
        if (!has_times[i])
            continue;
        for (long k = 0; k < w; k++)
            way->scale[k] = way->scales && k < n ? way->scales[k] : 1;
        NAME(prepare)(way, start, n, w);
        memset(X, 0, sizeof(double) * (size_t)size);
        for (long j = 0; j < n; j++)
            for (long k = 0; k < n; k++)
                X[j * w + k] = way->sign * way->plan[j * w + k] * (way->scale[k] / way->scale[j]);
        way->size = NAME(norm)(X, (is_complex ? n / 2 : n) * w);
        if (!(way->size > 0))
            return way->size;
    }
    for (long i = 0; i < T; i++) {
        const Way *way = ways + (t[i] < 0);
        NAME(follow)(way, node[i], rest[i], y, NULL, kept, n, w);
        for (long k = 0; k < w; k++) {
            z[i * w + k] = y[k] * way->scale[k];
            if (!(fabs(ldexp(z[i * w + k], exponent)) <= DBL_MAX))
                return INFINITY;
        }
    }
    double of_z = NAME(norm)(z, T * w), estimate = 0, random = 0;
    NAME(directed)(X, 0, n, w);
    for (long j = 0; j < n; j++)
        for (long k = 0; k < n; k++) {
            random = fmod(random * 16807 + 12345, 2147483647); /* Park & Miller (1988) */
            X[j * w + k] += random / 2147483647 - 0.5;
        }
    NAME(directed)(X, is_complex, n, w);
    for (int turn = 0; turn < MOST_TURNS; turn++) {
        for (int i = 0; i < 2; i++) {
            Way *way = ways + i;
            if (!has_times[i])
                continue;
            memset(way->D, 0, sizeof(double) * (size_t)size);
            for (long j = 0; j < n; j++)
                for (long k = 0; k < n; k++)
                    way->D[j * w + k] = way->sign * way->size * X[j * w + k] * (way->scale[j] / way->scale[k]);
            NAME(push)(way, n, w);
            memset(way->of_slopes, 0, sizeof(double) * (size_t)(way->used * size));
            memset(way->back_terms, 0, sizeof(double) * (size_t)((TANGENT_TERMS + 1) * w));
        }
        memset(dz, 0, sizeof(double) * (size_t)(T * w));
        for (long i = 0; i < T; i++) {
            const Way *way = ways + (t[i] < 0);
            NAME(follow)(way, node[i], rest[i], y, dy, kept, n, w);
            for (long k = 0; k < n; k++)
                dz[i * w + k] = dy[k] * way->scale[k];
        }
        double last = estimate;
        estimate = NAME(norm)(dz, T * w);
        if (!isfinite(estimate))
            return INFINITY;
        if (fabs(estimate - last) <= CONVERGED * estimate)
            break;
        for (long i = 0; i < T; i++) {
            const Way *way = ways + (t[i] < 0);
            for (long k = 0; k < w; k++)
                dy[k] = dz[i * w + k] / estimate * way->scale[k];
            NAME(follow_back)(way, node[i], rest[i], dy, y, kept, n, w);
        }
        memset(pulled, 0, sizeof(double) * (size_t)size);
        for (int i = 0; i < 2; i++) {
            Way *way = ways + i;
            if (!has_times[i])
                continue;
            NAME(pull)(way, n, w);
            for (long j = 0; j < n; j++)
                for (long k = 0; k < n; k++)
                    pulled[j * w + k] += way->sign * way->size * way->D[j * w + k] * (way->scale[j] / way->scale[k]);
        }
        memcpy(X, pulled, sizeof(double) * (size_t)size);
        if (!isfinite(NAME(directed)(X, is_complex, n, w)))
            return INFINITY;
    }
    return estimate > 0 ? estimate / of_z : 0;
}
