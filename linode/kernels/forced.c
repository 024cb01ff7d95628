/* States of small systems x' = Xi x + f(t), where f is a polynomial between breaks, and their gradients.

   A Python module of the limited API (one build serves Python 3.10 and newer). It takes addresses and strides, which
   linode/kernels/forced.py has checked, and releases the interpreter's lock. Systems, or trajectories of one system, are
   shared out among threads that live as long as the call. The numerics are in forced_kernel.h.

   Every piece between two breaks is divided into equal steps with |Xi| h <= 1; where they begin is a node. Within a step x
   is a power series, whose coefficients follow from the differential equation. Many equal steps go by their matrices:
   exp(Xi h), and the integrals that give what f adds. Nothing is inverted, and nothing subtracted but in sums with entries
   of Xi.
   Reverse: the cotangents go back from node to node through the transposed series and matrices.
   Sources: Van Loan (1978), IEEE Trans. Automatic Control 23, 395 (forcing by exponentials); Moler & Van Loan (2003), SIAM
   Review 45, 3, methods 3 and 5 (scaling and squaring, series as a solver of differential equations); Griewank & Walther
   (2008), Evaluating Derivatives, 13.2 (Taylor coefficients).                                                          */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define MOST_STATES 64           /* of a real or complex system */
#define MOST_COEFFICIENTS 24     /* of a polynomial */
#define REACH 1.0                /* |Xi| h of a step */
#define NEGLIGIBLE 0x1p-56       /* of the first term of a series */
#define STEP_NEGLIGIBLE 0x1p-60
#define MOST_TERMS 48            /* of a series: 19 of them reach 2^-56, and each coefficient of f adds one */
#define MOST_STEP_TERMS 20
#define LEAST_TERMS 12           /* or n of them: states of a chain that are as small as powers of h */
#define MOST_LEVELS 12           /* doublings of a step */
#define MOST_ROUNDING 0x1p20     /* of doublings: a bound in units of rounding, which is pessimistic, as that of `chain` */
#define MOST_SIZE 1e100          /* of a matrix of a step, and of Xi */
#define STEPS_FOR_A_MATRIX 4     /* beside n / 2: from so many equal steps on matrices are faster than series */
#define STEPS_OF_A_PIECE 16      /* times the number of pieces, and */
#define MOST_STEPS 512           /* more: the number of nodes beyond which other methods are faster */
#define ROWS 32                  /* steps whose cotangents are added to a matrix at once */
#define PART 8                   /* trajectories of one system that threads share out */
#define MOST_PARTS 64
#define MOST_THREADS 64
#define PADDED(n) (((n) + 3) / 4 * 4)

static double inverse[MOST_TERMS + MOST_STEP_TERMS + MOST_COEFFICIENTS + 2]; /* 1 / j */

/* ---- what is asked --------------------------------------------------------------------------------------------------- */

/* Times by node: order[begin[i]] to order[begin[i + 1] - 1] are those of node i, theta the part of its step. */
typedef struct {
    long *order, *begin;
    double *theta;
} Places;

/* S systems with R trajectories each. A state has n real numbers and rows of work arrays have w entries; f has p
   coefficients in each of K + 1 pieces. Strides are in real numbers, those of Xi in its own entries. */
typedef struct {
    int is_complex;
    long S, R, J, K, T, n, w, p; /* J matrices of a system: one, or one for each piece */
    const double *Xi, *x0, *F, *jumps, *t, *breaks, *gaps, *refs, *units;
    long long of_Xi[4], of_x0[2], of_F[3], of_jumps[3], of_t[3], of_gaps;
    double unit, t_max;
    double *z, *nodes;
    const double *g;
    double *dXi, *dx0, *dF, *dJ;
    /* what follows from these */
    double norm;              /* the largest |Xi| of all systems */
    long least;               /* terms of a series, at least */
    long first, last;         /* the pieces from time 0 to t_max */
    long *node, n_nodes;      /* the first node of each of these pieces, and of the one after them */
    long levels;              /* doublings of the step of equal pieces */
    double equal;             /* their step; 0 where there are none */
    int is_at_knots;          /* whether the times are those of nodes, one after the other: time i is the start of piece */
    long offset;              /* offset + i */
    int has_places;           /* whether all trajectories share their times */
    Places places;
    long parts;
} Task;

/* exp(Xi h) and the integrals beside it, with their powers and cotangents: matrices of n rows of w, see forced_kernel.h. */
typedef struct {
    long n, w, p, levels, terms;
    double h;
    double *series, *level, *spare, *turned, *back, *other, *of_V;
} Step;

typedef struct {
    int (*states)(const Task *, long s, long r0, long r1, double *memory);
    int (*gradients)(const Task *, long s, long r0, long r1, double *memory, double *dXi);
    int (*steps)(const Task *, long s, double *memory, double *E, double *Phi, int for_gradients, double *dA);
    long (*doubles)(const Task *, int for_gradients);
    int (*are_finite)(const double *, long long);
} Kernel;

/* ---- the pieces ------------------------------------------------------------------------------------------------------ */

static double unit_of(const Task *task, long k) { return task->units ? task->units[k] : task->unit; }

/* Whether piece k is one of several of one length. */
static int is_uniform(const Task *task, long k)
{
    return task->J == 1 && task->of_gaps == 0 && k > task->first && k < task->last;
}

static double start_of(const Task *task, long k) { return k == task->first ? 0.0 : task->breaks[k - 1]; }

/* The time from the start of piece k to the next break, or to the last time. */
static double length_of(const Task *task, long k)
{
    if (k == task->last)
        return task->t_max - start_of(task, k);
    return k == task->first ? task->breaks[k] : task->gaps[(k - 1) * task->of_gaps];
}

static long node_of(const Task *task, long k) { return task->node[k - task->first]; }

static long steps_of(const Task *task, long k) { return task->node[k - task->first + 1] - task->node[k - task->first]; }

/* The step of piece k. */
static double step_of(const Task *task, long k)
{
    return task->equal > 0 && is_uniform(task, k) ? task->equal : length_of(task, k) / (double)steps_of(task, k);
}

/* How many steps there are like those of piece k. */
static long equal_steps(const Task *task, long k)
{
    return is_uniform(task, k) ? steps_of(task, k) * (task->last - task->first - 1) : steps_of(task, k);
}

/* The number of breaks before t, or not after it. */
static long breaks_before(const Task *task, double t, int or_at)
{
    long low = 0, high = task->K;
    while (low < high) {
        long middle = (low + high) / 2;
        if (task->breaks[middle] < t || (or_at && task->breaks[middle] == t))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The piece of time t; near: one to try first. */
static long piece_of(const Task *task, double t, long near)
{
    for (long k = near; k <= near + 1 && k <= task->last; k++)
        if ((k == task->first || task->breaks[k - 1] <= t) && (k == task->last || t < task->breaks[k]))
            return k;
    long k = breaks_before(task, t, 1);
    return k < task->first ? task->first : k > task->last ? task->last : k;
}

static double time_of(const Task *task, long s, long r, long i)
{
    return task->t[s * task->of_t[0] + r * task->of_t[1] + i * task->of_t[2]];
}

static int shares_times(const Task *task)
{
    return (task->S == 1 || !task->of_t[0]) && (task->R == 1 || !task->of_t[1]);
}

/* Whether no time lies between the breaks of pieces of equal length. */
static int avoids_inner_times(const Task *task)
{
    long S = task->of_t[0] ? task->S : 1, R = task->of_t[1] ? task->R : 1;
    for (long s = 0; s < S; s++)
        for (long r = 0; r < R; r++)
            for (long i = 0, k = task->first; i < task->T; i++) {
                double t = time_of(task, s, r, i);
                k = piece_of(task, t, k);
                if (is_uniform(task, k) && t != start_of(task, k))
                    return 0;
            }
    return 1;
}

/* Doublings after which |Xi| h is that of a step. */
static long levels_for(double span)
{
    long levels = 0;
    for (; span > REACH && levels <= MOST_LEVELS; span /= 2)
        levels++;
    return levels;
}

/* Divides the pieces into steps; 0 where these are too many, -1 where there is no memory. */
static int divide(Task *task)
{
    task->first = breaks_before(task, 0.0, 0);
    task->last = breaks_before(task, task->t_max, 1);
    task->last = task->last < task->first ? task->first : task->last;
    long n_pieces = task->last - task->first + 1, at = 0, most = STEPS_OF_A_PIECE * n_pieces + MOST_STEPS;
    task->offset = task->first + (task->first < task->last && task->breaks[task->first] == 0);
    task->is_at_knots = shares_times(task) && task->T <= task->last - task->offset + 1;
    for (long i = 0; task->is_at_knots && i < task->T; i++)
        task->is_at_knots = time_of(task, 0, 0, i) == start_of(task, task->offset + i);
    task->node = malloc(sizeof(long) * (size_t)(n_pieces + 1));
    if (!task->node)
        return -1;
    long of_equal = 0;
    for (long k = task->first; k <= task->last; k++) {
        double span = task->norm * length_of(task, k);
        long steps = !(span < 1e15) ? most + 1 : span <= REACH ? 1 : (long)ceil(span / REACH);
        if (is_uniform(task, k)) {
            if (!of_equal) {
                of_equal = steps;
                if (steps > 1 && n_pieces - 2 >= STEPS_FOR_A_MATRIX + task->n / 2 &&
                    (task->is_at_knots || avoids_inner_times(task)))
                    task->levels = levels_for(span), of_equal = 1;
                task->equal = length_of(task, k) / (double)of_equal;
            }
            steps = of_equal;
        }
        task->node[k - task->first] = at, at += steps;
        if (at > most || task->levels > MOST_LEVELS)
            return 0;
    }
    task->node[n_pieces] = task->n_nodes = at;
    return 1;
}

/* ---- times by node --------------------------------------------------------------------------------------------------- */

static Places places_in(const Task *task, double *memory)
{
    Places places = {(long *)(void *)memory, (long *)(void *)(memory + task->T), memory + task->T + task->n_nodes + 1};
    return places;
}

static void place(const Task *task, long s, long r, Places *places)
{
    long k = task->first, known = -1, steps = 1, *node = (long *)(void *)(places->theta + task->T);
    double start = 0, rate = 0;
    memset(places->begin, 0, sizeof(long) * (size_t)(task->n_nodes + 1));
    for (long i = 0; i < task->T; i++) {
        double t = time_of(task, s, r, i);
        k = piece_of(task, t, k);
        if (k != known) {
            double h = step_of(task, k);
            known = k, start = start_of(task, k), steps = steps_of(task, k), rate = h > 0 ? 1 / h : 0;
        }
        double after = (t - start) * rate, number = after > 0 ? floor(after) : 0;
        number = number < (double)steps ? number : (double)(steps - 1);
        places->theta[i] = after > 0 ? after - number : 0;
        node[i] = node_of(task, k) + (long)number;
        places->begin[node[i] + 1]++;
    }
    for (long i = 0; i < task->n_nodes; i++)
        places->begin[i + 1] += places->begin[i];
    for (long i = task->T - 1; i >= 0; i--) /* from behind, so that begin[] is right at the end */
        places->order[--places->begin[node[i] + 1]] = i;
    for (long i = 0; i < task->n_nodes; i++)
        places->begin[i] = places->begin[i + 1];
    places->begin[task->n_nodes] = task->T;
}

static const Places *places_for(const Task *task, Places *own, long s, long r)
{
    if (task->is_at_knots)
        return NULL;
    if (task->has_places)
        return &task->places;
    place(task, s, r, own);
    return own;
}

/* ---- matrices: reading and writing ----------------------------------------------------------------------------------- */

static const double *entry_of(const Task *task, long s, long k, long i, long j)
{
    return task->Xi + (1 + task->is_complex) *
                          (s * task->of_Xi[0] + k * task->of_Xi[1] + i * task->of_Xi[2] + j * task->of_Xi[3]);
}

/* The transpose of a matrix, in rows of w; a complex entry becomes [[re, im], [-im, re]]. */
static void read_matrix(const Task *task, long s, long k, double *At)
{
    long n = task->n / (1 + task->is_complex), w = task->w;
    for (long i = 0; i < n; i++)
        for (long j = 0; j < n; j++) {
            const double *x = entry_of(task, s, k, i, j);
            if (task->is_complex) {
                At[2 * j * w + 2 * i] = At[(2 * j + 1) * w + 2 * i + 1] = x[0];
                At[2 * j * w + 2 * i + 1] = x[1], At[(2 * j + 1) * w + 2 * i] = -x[1];
            } else
                At[j * w + i] = x[0];
        }
}

static long matrix_doubles(const Task *task) { return task->n * task->n / (1 + task->is_complex); }

/* A matrix in contiguous rows, from its transpose. */
static void write_matrix(const Task *task, const double *At, double *out)
{
    long n = task->n / (1 + task->is_complex), w = task->w;
    for (long i = 0; i < n; i++)
        for (long j = 0; j < n; j++)
            if (task->is_complex)
                *out++ = At[2 * j * w + 2 * i], *out++ = At[2 * j * w + 2 * i + 1];
            else
                *out++ = At[j * w + i];
}

/* The cotangent of a transpose from that of a matrix as it is written. */
static void read_cotangent(const Task *task, const double *from, double *At)
{
    long n = task->n / (1 + task->is_complex), w = task->w;
    memset(At, 0, sizeof(double) * (size_t)(task->n * w));
    for (long i = 0; i < n; i++)
        for (long j = 0; j < n; j++)
            if (task->is_complex)
                At[2 * j * w + 2 * i] = *from++, At[2 * j * w + 2 * i + 1] = *from++;
            else
                At[j * w + i] = *from++;
}

/* Adds the cotangent of a transpose to that of the matrix, number k of its system, and clears it. */
static void add_to_matrix(const Task *task, long k, double *At, double *dXi)
{
    long n = task->n / (1 + task->is_complex), w = task->w;
    if (k < 0)
        return;
    double *out = dXi + k * matrix_doubles(task);
    for (long i = 0; i < n; i++)
        for (long j = 0; j < n; j++)
            if (task->is_complex) {
                *out++ += At[2 * j * w + 2 * i] + At[(2 * j + 1) * w + 2 * i + 1];
                *out++ += At[2 * j * w + 2 * i + 1] - At[(2 * j + 1) * w + 2 * i];
            } else
                *out++ += At[j * w + i];
    memset(At, 0, sizeof(double) * (size_t)(task->n * w));
}

/* The smaller of |Xi|_1 and |Xi|_inf, the largest of all matrices of system s. */
static double norm_of(const Task *task, long s)
{
    long n = task->n / (1 + task->is_complex);
    double most = 0;
    for (long k = 0; k < task->J; k++) {
        double columns[MOST_STATES] = {0}, by_rows = 0, by_columns = 0;
        for (long i = 0; i < n; i++) {
            double row = 0;
            for (long j = 0; j < n; j++) {
                const double *x = entry_of(task, s, k, i, j);
                double size = task->is_complex ? hypot(x[0], x[1]) : fabs(x[0]);
                row += size, columns[j] += size;
            }
            by_rows = row > by_rows || row != row ? row : by_rows;
        }
        for (long j = 0; j < n; j++)
            by_columns = columns[j] > by_columns || columns[j] != columns[j] ? columns[j] : by_columns;
        double own = by_rows < by_columns ? by_rows : by_columns;
        most = own > most || own != own ? own : most;
    }
    return most;
}

/* ---- numbers of a step ------------------------------------------------------------------------------------------------ */

static double binomial(long j, long i)
{
    double value = 1;
    for (long m = 0; m < i; m++)
        value = value * (double)(j - m) / (double)(m + 1);
    return value;
}

/* l! j! / (l + j + 1)! = int_0^1 (1 - s)^l s^j ds */
static double weight(long l, long j)
{
    double value = inverse[j + 1];
    for (long m = 1; m <= l; m++)
        value *= (double)m * inverse[m + j + 1];
    return value;
}

/* ---- the kernel, for two kinds of processors --------------------------------------------------------------------------- */

#define NAME(x) x##_any
#include "forced_kernel.h"
#undef NAME

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define NAME(x) x##_avx2
#include "forced_kernel.h"
#undef NAME
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

static const Kernel *kernel = &kernel_any;

/* ---- threads --------------------------------------------------------------------------------------------------------- */

enum { STATES, GRADIENTS, STEPS, STEPS_BACK };

typedef struct {
    const Task *task;
    int what;
    double *partial; /* what parts of one system add to the cotangent of Xi */
    double *E, *Phi;
    long n_items;
    atomic_long next;
    atomic_int no_memory, refused;
} Queue;

static void work_on(Queue *queue, long item, double *memory)
{
    const Task *task = queue->task;
    long s = item / task->parts, part = item % task->parts;
    long r0 = task->R * part / task->parts, r1 = task->R * (part + 1) / task->parts;
    size_t numbers = (size_t)(task->J * matrix_doubles(task));
    double *dXi = queue->partial ? queue->partial + numbers * (size_t)item : task->dXi ? task->dXi + numbers * (size_t)s : NULL;
    double *E = queue->E ? queue->E + s * matrix_doubles(task) : NULL;
    double *Phi = queue->E ? queue->Phi + s * task->p * matrix_doubles(task) : NULL;
    int is_fine = queue->what == STATES      ? kernel->states(task, s, r0, r1, memory)
                  : queue->what == GRADIENTS ? kernel->gradients(task, s, r0, r1, memory, dXi)
                                             : kernel->steps(task, s, memory, E, Phi, queue->what == STEPS_BACK, dXi);
    if (!is_fine)
        atomic_store(&queue->refused, 1);
}

static void *serve(void *given)
{
    Queue *queue = given;
    size_t doubles = (size_t)kernel->doubles(queue->task, queue->what == GRADIENTS || queue->what == STEPS_BACK);
    double *memory = calloc(doubles + 8, sizeof(double));
    if (!memory) {
        atomic_store(&queue->no_memory, 1);
        return NULL;
    }
    for (long i; (i = atomic_fetch_add(&queue->next, 1)) < queue->n_items;)
        work_on(queue, i, memory);
    free(memory);
    return NULL;
}

enum { FINE, REFUSED, NO_MEMORY };

/* All systems, by at most `threads` threads, this one among them. */
static int run(Task *task, int what, double *E, double *Phi, long threads)
{
    Queue queue = {.task = task, .what = what, .E = E, .Phi = Phi, .n_items = task->S * task->parts};
    size_t numbers = (size_t)(task->J * matrix_doubles(task));
    int has_gradient = what == GRADIENTS || what == STEPS_BACK;
    if (has_gradient)
        memset(task->dXi, 0, sizeof(double) * numbers * (size_t)task->S);
    if (has_gradient && task->parts > 1) {
        queue.partial = calloc(numbers * (size_t)queue.n_items, sizeof(double));
        if (!queue.partial)
            return NO_MEMORY;
    }
    pthread_t others[MOST_THREADS];
    long started = 0, wanted = threads < queue.n_items ? threads : queue.n_items;
    wanted = wanted < MOST_THREADS ? wanted : MOST_THREADS;
    while (started < wanted - 1 && !pthread_create(&others[started], NULL, serve, &queue))
        started++;
    serve(&queue);
    for (long i = 0; i < started; i++)
        pthread_join(others[i], NULL);
    for (long item = 0; queue.partial && item < queue.n_items; item++)
        for (size_t i = 0; i < numbers; i++)
            task->dXi[numbers * (size_t)(item / task->parts) + i] += queue.partial[numbers * (size_t)item + i];
    free(queue.partial);
    return atomic_load(&queue.no_memory) ? NO_MEMORY : atomic_load(&queue.refused) ? REFUSED : FINE;
}

/* ---- the module ------------------------------------------------------------------------------------------------------ */

/* The next arguments, one after the other. */
typedef struct {
    PyObject *const *values;
    Py_ssize_t left;
} Reader;

static PyObject *next_object(Reader *reader)
{
    if (reader->left <= 0)
        return PyErr_SetString(PyExc_TypeError, "too few arguments"), NULL;
    reader->left--;
    return *reader->values++;
}

static long long next_integer(Reader *reader)
{
    PyObject *value = next_object(reader);
    return value ? PyLong_AsLongLong(value) : 0;
}

static double next_number(Reader *reader)
{
    PyObject *value = next_object(reader);
    return value ? PyFloat_AsDouble(value) : 0;
}

static void *next_address(Reader *reader) { return (void *)(intptr_t)next_integer(reader); }

/* An address and strides, which are multiplied by `scale`. */
static const double *next_strided(Reader *reader, int n_strides, int scale, long long *strides)
{
    const double *data = next_address(reader);
    for (int i = 0; i < n_strides; i++)
        strides[i] = scale * next_integer(reader);
    return data;
}

/* Sizes and Xi; 0 where something is wrong. */
static int next_systems(Reader *reader, Task *task)
{
    task->is_complex = next_integer(reader) != 0;
    task->S = (long)next_integer(reader), task->R = (long)next_integer(reader), task->J = (long)next_integer(reader);
    task->K = (long)next_integer(reader), task->T = (long)next_integer(reader);
    long n = (long)next_integer(reader);
    task->p = (long)next_integer(reader);
    task->Xi = next_strided(reader, 4, 1, task->of_Xi);
    task->n = n * (1 + task->is_complex), task->w = PADDED(task->n);
    task->least = task->n < LEAST_TERMS ? task->n : LEAST_TERMS;
    task->parts = 1;
    if (!PyErr_Occurred() && (n < 1 || n > MOST_STATES || task->S < 0 || task->R < 0 || task->K < 0 || task->T < 0 ||
                              task->p < 0 || task->p > MOST_COEFFICIENTS || (task->J != 1 && task->J != task->K + 1)))
        PyErr_SetString(PyExc_ValueError, "sizes beyond those of the compiled kernel");
    return PyErr_Occurred() == NULL;
}

/* All that states depend on; 0 where something is wrong. */
static int next_problem(Reader *reader, Task *task)
{
    if (!next_systems(reader, task))
        return 0;
    int scale = 1 + task->is_complex;
    task->x0 = next_strided(reader, 2, scale, task->of_x0);
    task->F = next_strided(reader, 3, scale, task->of_F);
    task->jumps = next_strided(reader, 3, scale, task->of_jumps);
    task->t = next_strided(reader, 3, 1, task->of_t);
    task->breaks = next_address(reader);
    task->gaps = next_strided(reader, 1, 1, &task->of_gaps);
    task->refs = next_address(reader);
    task->units = next_address(reader);
    task->unit = next_number(reader), task->t_max = next_number(reader);
    if (!task->p) /* an address to count from */
        task->F = task->x0, memset(task->of_F, 0, sizeof task->of_F);
    if (task->S == 1 && task->R >= 2 * PART)
        task->parts = task->R / PART < MOST_PARTS ? task->R / PART : MOST_PARTS;
    return PyErr_Occurred() == NULL;
}

/* Finds norms, steps and places: FINE, REFUSED or NO_MEMORY. What it takes is freed by `forget`. */
static int prepare(Task *task)
{
    for (long s = 0; s < task->S; s++) {
        double own = norm_of(task, s);
        task->norm = own > task->norm || own != own ? own : task->norm;
        if (s + 1 < task->S && !task->of_Xi[0])
            break;
    }
    if (!(task->norm < MOST_SIZE) || !(task->t_max >= 0 && task->t_max <= DBL_MAX))
        return REFUSED;
    int is_fine = divide(task);
    if (is_fine <= 0)
        return is_fine ? NO_MEMORY : REFUSED;
    task->has_places = !task->is_at_knots && shares_times(task);
    if (task->has_places) {
        double *memory = malloc(sizeof(double) * (size_t)(3 * task->T + task->n_nodes + 2));
        if (!memory)
            return NO_MEMORY;
        task->places = places_in(task, memory);
        place(task, 0, 0, &task->places);
    }
    return FINE;
}

static void forget(Task *task)
{
    free(task->node);
    if (task->has_places)
        free(task->places.order);
}

static PyObject *nothing_or(PyObject *value, int answer)
{
    if (answer == FINE)
        return value;
    Py_XDECREF(value);
    if (answer == NO_MEMORY)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* states(keep, threads, problem, z): the nodes if they are to be kept, else an empty bytearray; None: refused. */
static PyObject *states(PyObject *self, PyObject *const *values, Py_ssize_t count)
{
    (void)self;
    Reader reader = {values, count};
    Task task = {0};
    int keeps = next_integer(&reader) != 0;
    long threads = (long)next_integer(&reader);
    if (!next_problem(&reader, &task))
        return NULL;
    task.z = next_address(&reader);
    if (PyErr_Occurred())
        return NULL;
    int answer;
    Py_BEGIN_ALLOW_THREADS
    answer = prepare(&task);
    Py_END_ALLOW_THREADS
    PyObject *nodes = NULL;
    if (answer == FINE) {
        long numbers = keeps ? task.S * task.R * task.n_nodes * task.n : 0;
        nodes = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)sizeof(double) * numbers);
        if (!nodes)
            return forget(&task), NULL;
        task.nodes = keeps ? (double *)(void *)PyByteArray_AsString(nodes) : NULL;
        Py_BEGIN_ALLOW_THREADS
        answer = run(&task, STATES, NULL, NULL, threads);
        if (answer == FINE && !kernel->are_finite(task.z, (long long)task.S * task.R * task.T * task.n))
            answer = REFUSED;
        Py_END_ALLOW_THREADS
    }
    forget(&task);
    return nothing_or(nodes, answer);
}

/* gradients(nodes, threads, problem, g, dXi, dx0, dF, dJ): dF and dJ are zero before. None: something overflowed. */
static PyObject *gradients(PyObject *self, PyObject *const *values, Py_ssize_t count)
{
    (void)self;
    Reader reader = {values, count};
    Task task = {0};
    PyObject *nodes = next_object(&reader);
    if (!nodes || !PyByteArray_Check(nodes))
        return PyErr_SetString(PyExc_TypeError, "nodes must be a bytearray"), NULL;
    long threads = (long)next_integer(&reader);
    if (!next_problem(&reader, &task))
        return NULL;
    task.g = next_address(&reader), task.dXi = next_address(&reader), task.dx0 = next_address(&reader);
    task.dF = next_address(&reader), task.dJ = next_address(&reader);
    if (PyErr_Occurred())
        return NULL;
    if (!task.p)
        task.dF = task.dx0;
    task.nodes = (double *)(void *)PyByteArray_AsString(nodes);
    size_t bytes = (size_t)PyByteArray_Size(nodes);
    int answer, fits = 1;
    Py_BEGIN_ALLOW_THREADS
    answer = prepare(&task);
    fits = answer != FINE || bytes == sizeof(double) * (size_t)(task.S * task.R * task.n_nodes * task.n);
    if (answer == FINE && fits) {
        answer = run(&task, GRADIENTS, NULL, NULL, threads);
        long long of_Xi = (long long)task.S * task.J * matrix_doubles(&task), of_x0 = (long long)task.S * task.R * task.n;
        if (answer == FINE && !(kernel->are_finite(task.dXi, of_Xi) && kernel->are_finite(task.dx0, of_x0)))
            answer = REFUSED;
    }
    Py_END_ALLOW_THREADS
    forget(&task);
    if (!fits)
        return PyErr_SetString(PyExc_ValueError, "the compiled kernel does not take these nodes: they are of another problem"), NULL;
    return nothing_or(PyLong_FromLong(1), answer);
}

/* steps(back, threads, sizes and Xi, E, Phi[, dXi]): exp(Xi) and the integrals beside it, or the cotangent of Xi from
   theirs. None: refused. */
static PyObject *steps(PyObject *self, PyObject *const *values, Py_ssize_t count)
{
    (void)self;
    Reader reader = {values, count};
    Task task = {0};
    int is_back = next_integer(&reader) != 0;
    long threads = (long)next_integer(&reader);
    if (!next_systems(&reader, &task))
        return NULL;
    double *E = next_address(&reader), *Phi = next_address(&reader);
    task.dXi = is_back ? next_address(&reader) : NULL;
    if (PyErr_Occurred())
        return NULL;
    int answer = FINE;
    Py_BEGIN_ALLOW_THREADS
    task.is_at_knots = 1; /* no memory for times */
    for (long s = 0; s < task.S; s++) {
        double norm = norm_of(&task, s);
        long own = norm < MOST_SIZE ? levels_for(norm) : MOST_LEVELS + 1;
        task.levels = own > task.levels ? own : task.levels;
    }
    answer = task.levels > MOST_LEVELS ? REFUSED : run(&task, is_back ? STEPS_BACK : STEPS, E, Phi, threads);
    long long numbers = (long long)task.S * matrix_doubles(&task);
    if (answer == FINE && !kernel->are_finite(is_back ? task.dXi : E, numbers))
        answer = REFUSED;
    if (answer == FINE && !is_back && !kernel->are_finite(Phi, task.p * numbers))
        answer = REFUSED;
    Py_END_ALLOW_THREADS
    return nothing_or(PyLong_FromLong(1), answer);
}

/* spacing(times, count): the smallest and the largest distance of neighbours, NaN where one is, and the largest distance of
   a time from where it would be if all were equally spaced. */
static PyObject *spacing(PyObject *self, PyObject *const *values, Py_ssize_t count)
{
    (void)self;
    Reader reader = {values, count};
    const double *times = next_address(&reader);
    long K = (long)next_integer(&reader);
    if (PyErr_Occurred())
        return NULL;
    double least = INFINITY, most = -INFINITY, off = 0, mean = K > 1 ? (times[K - 1] - times[0]) / (double)(K - 1) : 0;
    for (long i = 0; i < K; i++) {
        double from = fabs((double)i * mean + times[0] - times[i]);
        off = from > off || from != from ? from : off;
    }
    for (long i = 1; i < K; i++) {
        double gap = times[i] - times[i - 1];
        least = gap < least || gap != gap ? gap : least, most = gap > most || gap != gap ? gap : most;
    }
    return Py_BuildValue("(ddd)", least, most, off);
}

static PyMethodDef METHODS[] = {
    {"states", (PyCFunction)(void (*)(void))states, METH_FASTCALL, "z, and the nodes; None: refused."},
    {"gradients", (PyCFunction)(void (*)(void))gradients, METH_FASTCALL, "Of Xi, x0, f and jumps; None: something overflowed."},
    {"steps", (PyCFunction)(void (*)(void))steps, METH_FASTCALL, "exp(Xi) and integrals, or the gradient; None: refused."},
    {"spacing", (PyCFunction)(void (*)(void))spacing, METH_FASTCALL, "Of times: least and largest distance, unevenness."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_forced", NULL, -1, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__forced(void)
{
    for (size_t j = 1; j < sizeof inverse / sizeof *inverse; j++)
        inverse[j] = 1.0 / (double)j;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        kernel = &kernel_avx2;
#endif
    PyObject *module = PyModule_Create(&MODULE);
    if (module && (PyModule_AddIntConstant(module, "MOST_STATES", MOST_STATES) ||
                   PyModule_AddIntConstant(module, "MOST_COEFFICIENTS", MOST_COEFFICIENTS))) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
