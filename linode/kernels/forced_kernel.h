/* The numerics of forced.c: included once for every instruction set, under the names that NAME makes.

   Matrices are kept transposed, in rows of w entries, w a multiple of 4: a product with a vector is then a sum of rows.
   Complex numbers are pairs of real ones, so that everything here is real.                                          */

#include "vectors.h"

/* ---- products with a vector ---------------------------------------------------------------------------------------- */

/* out = factor (start + sum_j x_j M_j) for n rows M_j, of which 4 nv entries are taken. */
INLINE void NAME(combine)(const int nv, long n, const double *M, long w, const double *x, const double *start,
                          double factor, double *out)
{
    v4 even[4], odd[4]; /* two sums: half as long a chain */
    UNROLL for (int v = 0; v < nv; v++)
        even[v] = start ? LOAD(start + 4 * v) : ALL(0.0), odd[v] = ALL(0.0);
    long j = 0;
    for (; j + 2 <= n; j += 2, M += 2 * w) {
        v4 a = ALL(x[j]), b = ALL(x[j + 1]);
        UNROLL for (int v = 0; v < nv; v++)
            even[v] += a * LOAD(M + 4 * v), odd[v] += b * LOAD(M + w + 4 * v);
    }
    if (j < n)
        UNROLL for (int v = 0; v < nv; v++)
            even[v] += ALL(x[j]) * LOAD(M + 4 * v);
    UNROLL for (int v = 0; v < nv; v++)
        STORE(out + 4 * v, ALL(factor) * (even[v] + odd[v]));
}

/* out (w) = factor (start + M^T x) for M (n, w); start may be NULL, out is not x. */
static void NAME(apply)(long n, long w, const double *M, const double *x, const double *start, double factor, double *out)
{
    long i = 0;
    for (; i + 16 <= w; i += 16)
        NAME(combine)(4, n, M + i, w, x, start ? start + i : NULL, factor, out + i);
    start = start ? start + i : NULL;
    if (w - i == 12)
        NAME(combine)(3, n, M + i, w, x, start, factor, out + i);
    else if (w - i == 8)
        NAME(combine)(2, n, M + i, w, x, start, factor, out + i);
    else if (w - i == 4)
        NAME(combine)(1, n, M + i, w, x, start, factor, out + i);
}

/* y += factor x, for n entries, a multiple of 4 */
static void NAME(add_multiple)(long n, double factor, const double *x, double *y)
{
    for (long i = 0; i < n; i += 4)
        STORE(y + i, LOAD(y + i) + ALL(factor) * LOAD(x + i));
}

/* A state of n numbers. */
INLINE void NAME(copy)(long n, const double *from, double *to)
{
    long i = 0;
    for (; i + 4 <= n; i += 4)
        STORE(to + i, LOAD(from + i));
    for (; i < n; i++)
        to[i] = from[i];
}

static int NAME(are_finite)(const double *x, long long n)
{
    v4 sum = ALL(0.0);
    double rest = 0;
    long long i = 0;
    for (; i + 4 <= n; i += 4)
        sum += LOAD(x + i) * ALL(0.0);
    for (; i < n; i++)
        rest += x[i] * 0;
    rest += sum[0] + sum[1] + sum[2] + sum[3];
    return rest == 0;
}

/* ---- series in Xi ---------------------------------------------------------------------------------------------------- */

/* x(theta h) = sum_l C_l theta^l, 0 <= theta <= 1, for x' = Xi x + sum_j f_j theta^j / h^... : C_(l+1) = h (Xi C_l + f_l)
   / (l + 1). Returns the largest l. */
static long NAME(series)(const Task *task, const double *At, double h, const double *x, const double *f, double *C)
{
    long w = task->w, p = task->p, l = 0, more = p;
    double span = task->norm * fabs(h), size = 1;
    memcpy(C, x, sizeof(double) * w);
    while (l < MOST_TERMS) {
        double factor = h * inverse[l + 1];
        NAME(apply)(task->n, w, At, C + l * w, l < p ? f + l * w : NULL, factor, C + (l + 1) * w);
        size *= span * inverse[++l];
        if (l >= task->least && size < NEGLIGIBLE && more-- <= 0)
            break;
    }
    return l;
}

/* z (4, w): the sums at four theta. */
static void NAME(sums)(long terms, long w, const double *C, const double *theta, double *z)
{
    v4 a = ALL(theta[0]), b = ALL(theta[1]), c = ALL(theta[2]), d = ALL(theta[3]);
    for (long i = 0; i < w; i += 4) {
        const double *from = C + terms * w + i;
        v4 x0 = LOAD(from), x1 = x0, x2 = x0, x3 = x0;
        for (long l = terms; l > 0; l--) {
            from -= w;
            v4 own = LOAD(from);
            x0 = x0 * a + own, x1 = x1 * b + own, x2 = x2 * c + own, x3 = x3 * d + own;
        }
        STORE(z + i, x0), STORE(z + w + i, x1), STORE(z + 2 * w + i, x2), STORE(z + 3 * w + i, x3);
    }
}

/* The sum at theta = 1, from the smallest term. */
static void NAME(end)(long terms, long w, const double *C, double *x)
{
    for (long i = 0; i < w; i += 4) {
        v4 sum = LOAD(C + terms * w + i);
        for (long l = terms - 1; l >= 0; l--)
            sum += LOAD(C + l * w + i);
        STORE(x + i, sum);
    }
}

/* ---- the forcing of a step --------------------------------------------------------------------------------------------- */

/* f_j (p, w): the forcing of piece k, whose polynomial is F_j ((t - ref) / unit)^j, as one in (t - start) / h. */
static void NAME(localise)(const Task *task, const double *F, long k, double start, double h, double *f)
{
    long n = task->n, w = task->w, p = task->p;
    for (long j = 0; j < p; j++)
        NAME(copy)(n, F + j * n, f + j * w);
    if (p < 2)
        return;
    double unit = unit_of(task, k), by = (start - task->refs[k]) / unit, ratio = h / unit, factor = 1;
    if (by != 0)
        for (long i = 0; i < p - 1; i++)
            for (long j = p - 2; j >= i; j--)
                NAME(add_multiple)(w, by, f + (j + 1) * w, f + j * w);
    for (long j = 1; j < p; j++) {
        factor *= ratio;
        for (long i = 0; i < n; i++)
            f[j * w + i] *= factor;
    }
}

/* The reverse: adds to the cotangent of F, from that of f, which is changed. */
static void NAME(localise_back)(const Task *task, double *f, long k, double start, double h, double *F)
{
    long n = task->n, w = task->w, p = task->p;
    if (p > 1) {
        double unit = unit_of(task, k), by = (start - task->refs[k]) / unit, ratio = h / unit, factor = 1;
        for (long j = 1; j < p; j++) {
            factor *= ratio;
            for (long i = 0; i < n; i++)
                f[j * w + i] *= factor;
        }
        if (by != 0)
            for (long i = p - 2; i >= 0; i--)
                for (long j = i; j < p - 1; j++)
                    NAME(add_multiple)(w, by, f + j * w, f + (j + 1) * w);
    }
    for (long j = 0; j < p; j++)
        for (long i = 0; i < n; i++)
            F[j * n + i] += f[j * w + i];
}

/* ---- matrices of a step ------------------------------------------------------------------------------------------------ */

#define MATMUL(A, B, C, add) NAME(product)(n, w, n, A, w, 1, B, w, C, w, add)   /* C (+)= A B */
#define MATMUL_T(A, B, C, add) NAME(product)(n, w, n, A, 1, w, B, w, C, w, add) /* C (+)= A^T B */

static long NAME(step_doubles)(long n, long w, long p, long levels, int for_gradients)
{
    long matrices = MOST_STEP_TERMS + 1 + (levels + 1) * (1 + p) + 1;
    if (for_gradients)
        matrices += 3 * (1 + p) + 3;
    return matrices * n * w;
}

static double *NAME(level_of)(const Step *step, long level)
{
    return step->level + level * (1 + step->p) * step->n * step->w;
}

/* |E|_2 from above, to a factor of n^(1/4): (trace (E^T E)^2)^(1/4). */
static double NAME(two_norm)(long n, long w, const double *E, double *spare)
{
    double sum = 0;
    MATMUL_T(E, E, spare, 0);
    for (long i = 0; i < n; i++)
        for (long j = 0; j < n; j++)
            sum += spare[i * w + j] * spare[i * w + j];
    return sqrt(sqrt(sum));
}

/* exp(Xi h) and the integrals Phi_j = int_0^h exp(Xi (h - s)) (s / h)^j ds, j < p, all transposed, by a series for
   H = h / 2^levels and then by doubling H:
   E <- E E, Phi_j <- 2^-j (Phi_j E + sum_(i <= j) binom(j, i) Phi_i).
   Returns 0 where a bound of the rounding error is too large. */
static int NAME(make_step)(Step *step, const double *At, double norm, double h)
{
    long n = step->n, w = step->w, p = step->p, size = n * w;
    double H = ldexp(h, (int)-step->levels), span = norm * fabs(H), term = 1;
    step->h = h;
    double *V = step->series, *E = NAME(level_of)(step, 0);
    memset(V, 0, sizeof(double) * 2 * size);
    for (long i = 0; i < n; i++)
        V[i * w + i] = 1;
    for (long i = 0; i < n; i++)
        for (long j = 0; j < n; j++)
            V[size + i * w + j] = At[i * w + j] * H;
    long least = n < MOST_STEP_TERMS ? n : MOST_STEP_TERMS, l = 1;
    for (term = span; l < MOST_STEP_TERMS && (l < least || term >= STEP_NEGLIGIBLE); term *= span * inverse[++l]) {
        MATMUL(V + l * size, V + size, V + (l + 1) * size, 0);
        for (long i = 0; i < size; i++)
            V[(l + 1) * size + i] *= inverse[l + 1];
    }
    step->terms = l;
    memset(E, 0, sizeof(double) * (1 + p) * size);
    for (; l >= 0; l--) {
        NAME(add_multiple)(size, 1.0, V + l * size, E);
        for (long j = 0; j < p; j++)
            NAME(add_multiple)(size, H * weight(l, j), V + l * size, E + (1 + j) * size);
    }
    double bound = 8, size_of_E = 1;
    for (long level = 0; level < step->levels; level++) {
        double *Phi = E + size, *next = NAME(level_of)(step, level + 1);
        size_of_E = NAME(two_norm)(n, w, E, step->spare);
        bound = 2 * size_of_E * bound + size_of_E * size_of_E;
        MATMUL(E, E, next, 0);
        double half = 1;
        for (long j = 0; j < p; j++, half *= 0.5) {
            double *own = next + (1 + j) * size;
            MATMUL(Phi + j * size, E, own, 0);
            for (long i = 0; i <= j; i++)
                NAME(add_multiple)(size, binomial(j, i), Phi + i * size, own);
            for (long i = 0; i < size; i++)
                own[i] *= half;
        }
        E = next;
    }
    if (!step->levels)
        return 1;
    size_of_E = NAME(two_norm)(n, w, E, step->spare);
    return bound <= MOST_ROUNDING * size_of_E && size_of_E < MOST_SIZE;
}

/* E and Phi_j as they are, not transposed: for the reverse. */
static void NAME(turn_step)(Step *step)
{
    long n = step->n, w = step->w, size = n * w;
    const double *top = NAME(level_of)(step, step->levels);
    for (long j = 0; j <= step->p; j++)
        NAME(transpose)(n, n, top + j * size, w, step->turned + j * size, w);
    memset(step->back, 0, sizeof(double) * (1 + step->p) * size);
}

/* Adds to the cotangent of Xi^T, from those of E^T and Phi_j^T in step->back. */
static void NAME(step_back)(Step *step, double *dXt)
{
    long n = step->n, w = step->w, p = step->p, size = n * w;
    double *back = step->back, *next = step->other, *flip = step->spare;
    for (long level = step->levels - 1; level >= 0; level--) {
        const double *E = NAME(level_of)(step, level), *Phi = E + size;
        NAME(transpose)(n, n, E, w, flip, w);
        MATMUL(back, flip, next, 0);
        MATMUL_T(E, back, next, 1);
        double half = 1;
        for (long j = 0; j < p; j++, half *= 0.5) {
            double *own = back + (1 + j) * size;
            for (long i = 0; i < size; i++)
                own[i] *= half;
            MATMUL_T(Phi + j * size, own, next, 1);
            MATMUL(own, flip, next + (1 + j) * size, 0);
        }
        for (long j = 0; j < p; j++)
            for (long i = 0; i <= j; i++)
                NAME(add_multiple)(size, binomial(j, i), back + (1 + j) * size, next + (1 + i) * size);
        double *last = back;
        back = next, next = last;
    }
    double H = ldexp(step->h, (int)-step->levels), *V = step->series, *of_V = step->of_V, *of_B = of_V + 2 * size;
    memset(of_B, 0, sizeof(double) * size);
    NAME(transpose)(n, n, V + size, w, flip, w);
    for (long l = step->terms; l > 0; l--) { /* V_l = V_(l-1) V_1 / l */
        double *own = of_V + l % 2 * size, *before = of_V + (l + 1) % 2 * size;
        if (l == step->terms)
            memset(own, 0, sizeof(double) * size);
        NAME(add_multiple)(size, 1.0, back, own);
        for (long j = 0; j < p; j++)
            NAME(add_multiple)(size, H * weight(l, j), back + (1 + j) * size, own);
        if (l == 1) {
            NAME(add_multiple)(size, 1.0, own, of_B);
            break;
        }
        for (long i = 0; i < size; i++)
            own[i] *= inverse[l];
        MATMUL_T(V + (l - 1) * size, own, of_B, 1);
        MATMUL(own, flip, before, 0);
    }
    NAME(add_multiple)(size, H, of_B, dXt);
}

/* ---- a walk from node to node --------------------------------------------------------------------------------------------- */

static long NAME(walk_doubles)(const Task *task, int for_gradients)
{
    long n = task->n, w = task->w, p = task->p;
    long rows = 8 + 2 * p + (MOST_TERMS + 1) * (for_gradients ? 3 : 1) + 4 + (for_gradients ? ROWS * (2 + p) : 0);
    long places = task->has_places || task->is_at_knots ? 0 : 3 * task->T + task->n_nodes + 2;
    return rows * w + 3 * n * w + places + NAME(step_doubles)(n, w, p, task->levels, for_gradients);
}

/* Memory of a walk, and the matrix that rules the present piece. */
typedef struct {
    const Task *task;
    long s, k; /* the system and the piece of At */
    double *At, *A, *dXt;
    Step step;
    int has_step, is_fine;
    double *C, *of_C, *of_f, *moments;
    double *f, *x, *next, *lam, *row, *four;
    double *many_x, *many_lam, *many_f;
    long count; /* of rows in `many` */
    Places own;
} NAME(Walk);
#define Walk NAME(Walk)

static Walk NAME(walk_of)(const Task *task, long s, double *memory, int for_gradients)
{
    long n = task->n, w = task->w, p = task->p, size = n * w;
    Walk walk = {.task = task, .s = s, .k = -1, .is_fine = 1};
#define TAKE(count) (memory += (count), memory - (count))
    walk.At = TAKE(size), walk.A = TAKE(size), walk.dXt = TAKE(size);
    walk.x = TAKE(w), walk.next = TAKE(w), walk.lam = TAKE(w), walk.row = TAKE(w), walk.four = TAKE(4 * w);
    walk.f = TAKE(p * w), walk.of_f = TAKE(p * w), walk.C = TAKE((MOST_TERMS + 1) * w);
    Step *step = &walk.step;
    step->n = n, step->w = w, step->p = p, step->levels = task->levels;
    step->series = TAKE((MOST_STEP_TERMS + 1) * size), step->level = TAKE((task->levels + 1) * (1 + p) * size);
    step->spare = TAKE(size);
    if (for_gradients) {
        step->turned = TAKE((1 + p) * size), step->back = TAKE((1 + p) * size), step->other = TAKE((1 + p) * size);
        step->of_V = TAKE(3 * size);
        walk.of_C = TAKE((MOST_TERMS + 1) * w), walk.moments = TAKE((MOST_TERMS + 1) * w);
        walk.many_x = TAKE(ROWS * w), walk.many_lam = TAKE(ROWS * w), walk.many_f = TAKE(ROWS * p * w);
    }
    if (!task->has_places && !task->is_at_knots)
        walk.own = places_in(task, memory);
#undef TAKE
    return walk;
}

/* Reads the matrix of piece k, if it is another one. */
static void NAME(enter)(Walk *walk, long k)
{
    const Task *task = walk->task;
    long own = task->J == 1 ? 0 : k;
    if (walk->k == own)
        return;
    walk->k = own, walk->has_step = 0;
    read_matrix(task, walk->s, own, walk->At);
    NAME(transpose)(task->n, task->n, walk->At, task->w, walk->A, task->w);
}

/* Whether steps of piece k go by matrices, which are then made. */
static int NAME(goes_by_matrices)(Walk *walk, long k, double h, int for_gradients)
{
    const Task *task = walk->task;
    if (walk->has_step && walk->step.h == h)
        return 1;
    if (walk->has_step && for_gradients)
        return 0; /* the caller closes the last ones first */
    if (equal_steps(task, k) < STEPS_FOR_A_MATRIX + task->n / 2)
        return 0;
    walk->has_step = 1;
    walk->is_fine &= NAME(make_step)(&walk->step, walk->At, task->norm, h);
    if (for_gradients)
        NAME(turn_step)(&walk->step);
    return 1;
}

/* The states of trajectories r0 .. r1 of system s. */
static int NAME(states)(const Task *task, long s, long r0, long r1, double *memory)
{
    long n = task->n, w = task->w, p = task->p, size = n * w;
    Walk walk = NAME(walk_of)(task, s, memory, 0);
    for (long r = r0; r < r1; r++) {
        double *z = task->z + (s * task->R + r) * task->T * n, *x = walk.x, *next = walk.next;
        double *nodes = task->nodes ? task->nodes + (s * task->R + r) * task->n_nodes * n : NULL;
        const Places *places = places_for(task, &walk.own, s, r);
        NAME(copy)(n, task->x0 + s * task->of_x0[0] + r * task->of_x0[1], x);
        for (long k = task->first; k <= task->last; k++) {
            const double *F = task->F + s * task->of_F[0] + r * task->of_F[1] + k * task->of_F[2];
            long steps = steps_of(task, k), node = node_of(task, k);
            double start = start_of(task, k), h = step_of(task, k);
            NAME(enter)(&walk, k);
            for (long i = 0; i < steps; i++, node++) {
                int is_last = k == task->last && i == steps - 1;
                long terms = -1;
                if (nodes)
                    NAME(copy)(n, x, nodes + node * n);
                if (!places) {
                    if (i == 0 && k >= task->offset && k - task->offset < task->T)
                        NAME(copy)(n, x, z + (k - task->offset) * n);
                } else if (places->begin[node] < places->begin[node + 1]) {
                    double theta[4];
                    long waiting[4], count = 0;
                    for (long at = places->begin[node]; at < places->begin[node + 1]; at++) {
                        long q = places->order[at];
                        if (places->theta[q] == 0)
                            NAME(copy)(n, x, z + q * n);
                        else
                            theta[count] = places->theta[q], waiting[count++] = q;
                        if (count == 4 || (count && at + 1 == places->begin[node + 1])) {
                            if (terms < 0) {
                                NAME(localise)(task, F, k, start + (double)i * h, h, walk.f);
                                terms = NAME(series)(task, walk.At, h, x, walk.f, walk.C);
                            }
                            for (long j = count; j < 4; j++)
                                theta[j] = 0;
                            NAME(sums)(terms, w, walk.C, theta, walk.four);
                            for (long j = 0; j < count; j++)
                                NAME(copy)(n, walk.four + j * w, z + waiting[j] * n);
                            count = 0;
                        }
                    }
                }
                if (is_last || h == 0)
                    continue;
                if (terms < 0 && NAME(goes_by_matrices)(&walk, k, h, 0)) {
                    const double *E = NAME(level_of)(&walk.step, walk.step.levels), *f = F;
                    if (!walk.is_fine)
                        return 0;
                    if (p > 1)
                        NAME(localise)(task, F, k, start + (double)i * h, h, walk.f), f = walk.f;
                    for (long j = 0; j < p; j++)
                        NAME(apply)(n, w, E + (1 + j) * size, f + j * w, j ? walk.row : NULL, 1.0, walk.row);
                    NAME(apply)(n, w, E, x, p ? walk.row : NULL, 1.0, next);
                } else {
                    if (terms < 0) {
                        NAME(localise)(task, F, k, start + (double)i * h, h, walk.f);
                        terms = NAME(series)(task, walk.At, h, x, walk.f, walk.C);
                    }
                    NAME(end)(terms, w, walk.C, next);
                }
                double *last = x;
                x = next, next = last;
            }
            if (task->jumps && k < task->last) {
                const double *jump = task->jumps + s * task->of_jumps[0] + r * task->of_jumps[1] + k * task->of_jumps[2];
                for (long i = 0; i < n; i++)
                    x[i] += jump[i];
            }
        }
    }
    return 1;
}

/* Adds what the rows in `many` give to the cotangents of the matrices of the step. */
static void NAME(settle)(Walk *walk)
{
    long n = walk->task->n, w = walk->task->w, p = walk->task->p, size = n * w, count = walk->count;
    if (!count)
        return;
    NAME(product)(n, w, count, walk->many_x, 1, w, walk->many_lam, w, walk->step.back, w, 1);
    for (long j = 0; j < p; j++)
        NAME(product)(n, w, count, walk->many_f + j * w, 1, p * w, walk->many_lam, w, walk->step.back + (1 + j) * size, w, 1);
    walk->count = 0;
}

/* The same, and then to that of Xi: the matrices of the step are not used again. */
static void NAME(close)(Walk *walk)
{
    if (!walk->has_step)
        return;
    NAME(settle)(walk);
    NAME(step_back)(&walk->step, walk->dXt);
    walk->has_step = 0;
}

/* The cotangents of trajectories r0 .. r1 of system s; that of Xi is added to dXi, one for every matrix. */
static int NAME(gradients)(const Task *task, long s, long r0, long r1, double *memory, double *dXi)
{
    long n = task->n, w = task->w, p = task->p, size = n * w, n_rows = task->of_F[2] ? task->K + 1 : 1;
    Walk walk = NAME(walk_of)(task, s, memory, 1);
    for (long r = r0; r < r1; r++) {
        long number = s * task->R + r;
        const double *g = task->g + number * task->T * n, *nodes = task->nodes + number * task->n_nodes * n;
        const Places *places = places_for(task, &walk.own, s, r);
        double *lam = walk.lam, *next = walk.next;
        memset(lam, 0, sizeof(double) * w);
        for (long k = task->last; k >= task->first; k--) {
            const double *F = task->F + s * task->of_F[0] + r * task->of_F[1] + k * task->of_F[2];
            double *dF = task->dF + (number * n_rows + (task->of_F[2] ? k : 0)) * p * n;
            long steps = steps_of(task, k), node = node_of(task, k) + steps - 1;
            double begin = start_of(task, k), h = step_of(task, k);
            if (task->J > 1 && walk.k != k) {
                NAME(close)(&walk);
                add_to_matrix(task, walk.k, walk.dXt, dXi);
            }
            NAME(enter)(&walk, k);
            if (task->jumps && k < task->last)
                NAME(copy)(n, lam, task->dJ + (number * task->K + k) * n);
            for (long i = steps - 1; i >= 0; i--, node--) {
                int moves = h != 0 && !(k == task->last && i == steps - 1), has_inner = 0;
                double start = begin + (double)i * h;
                const double *x = nodes + node * n;
                long from = places ? places->begin[node] : 0, to = places ? places->begin[node + 1] : 0;
                for (long at = from; at < to && !has_inner; at++)
                    has_inner = places->theta[places->order[at]] != 0;
                if (moves && !has_inner && walk.has_step && walk.step.h != h)
                    NAME(close)(&walk);
                if (moves && !has_inner && NAME(goes_by_matrices)(&walk, k, h, 1)) {
                    const double *E = walk.step.turned;
                    if (!walk.is_fine)
                        return 0;
                    double *f = walk.many_f + walk.count * p * w;
                    NAME(copy)(n, x, walk.many_x + walk.count * w);
                    memcpy(walk.many_lam + walk.count * w, lam, sizeof(double) * w);
                    NAME(localise)(task, F, k, start, h, f);
                    for (long j = 0; j < p; j++)
                        NAME(apply)(n, w, E + (1 + j) * size, lam, NULL, 1.0, walk.of_f + j * w);
                    if (p)
                        NAME(localise_back)(task, walk.of_f, k, start, h, dF);
                    NAME(apply)(n, w, E, lam, NULL, 1.0, next);
                    double *last = lam;
                    lam = next, next = last;
                    if (++walk.count == ROWS)
                        NAME(settle)(&walk);
                } else if (moves || has_inner) {
                    double *C = walk.C, *of_C = walk.of_C, *moments = walk.moments;
                    NAME(copy)(n, x, walk.x);
                    NAME(localise)(task, F, k, start, h, walk.f);
                    long terms = NAME(series)(task, walk.At, h, walk.x, walk.f, C);
                    for (long l = 0; l <= terms; l++)
                        if (moves)
                            memcpy(of_C + l * w, lam, sizeof(double) * w);
                        else
                            memset(of_C + l * w, 0, sizeof(double) * w);
                    for (long at = from; at < to; at++) {
                        long q = places->order[at];
                        double theta = places->theta[q], power = 1;
                        NAME(copy)(n, g + q * n, walk.row);
                        for (long l = 0; l <= (theta == 0 ? 0 : terms); l++, power *= theta)
                            NAME(add_multiple)(w, power, walk.row, of_C + l * w);
                    }
                    for (long l = terms; l > 0; l--) {
                        double *own = moments + (l - 1) * w, factor = h * inverse[l];
                        for (long j = 0; j < w; j += 4)
                            STORE(own + j, ALL(factor) * LOAD(of_C + l * w + j));
                        NAME(apply)(n, w, walk.A, own, of_C + (l - 1) * w, 1.0, of_C + (l - 1) * w);
                    }
                    NAME(product)(n, w, terms, C, 1, w, moments, w, walk.dXt, w, 1);
                    if (p)
                        NAME(localise_back)(task, moments, k, start, h, dF);
                    memcpy(lam, of_C, sizeof(double) * w);
                    from = to;
                }
                for (long at = from; at < to; at++) /* at the node itself */
                    for (long j = 0; j < n; j++)
                        lam[j] += g[places->order[at] * n + j];
                if (!places && i == 0 && k >= task->offset && k - task->offset < task->T)
                    for (long j = 0; j < n; j++)
                        lam[j] += g[(k - task->offset) * n + j];
            }
        }
        NAME(copy)(n, lam, task->dx0 + number * n);
    }
    NAME(close)(&walk);
    if (walk.k >= 0)
        add_to_matrix(task, walk.k, walk.dXt, dXi);
    return 1;
}

/* ---- the matrices of a step alone ----------------------------------------------------------------------------------------- */

static int NAME(steps)(const Task *task, long s, double *memory, double *E, double *Phi, int for_gradients, double *dA)
{
    long n = task->n, w = task->w, p = task->p, size = n * w;
    Walk walk = NAME(walk_of)(task, s, memory, for_gradients);
    NAME(enter)(&walk, 0);
    double norm = norm_of(task, s);
    walk.step.levels = levels_for(norm);
    if (!NAME(make_step)(&walk.step, walk.At, norm, 1.0))
        return 0;
    if (!for_gradients) {
        const double *top = NAME(level_of)(&walk.step, walk.step.levels);
        write_matrix(task, top, E);
        for (long j = 0; j < p; j++)
            write_matrix(task, top + (1 + j) * size, Phi + j * matrix_doubles(task));
        return 1;
    }
    read_cotangent(task, E, walk.step.back);
    for (long j = 0; j < p; j++)
        read_cotangent(task, Phi + j * matrix_doubles(task), walk.step.back + (1 + j) * size);
    NAME(step_back)(&walk.step, walk.dXt);
    add_to_matrix(task, 0, walk.dXt, dA);
    return 1;
}

static const Kernel NAME(kernel) = {NAME(states), NAME(gradients), NAME(steps), NAME(walk_doubles), NAME(are_finite)};

#undef MATMUL
#undef MATMUL_T
#undef Walk
