/* The compiled kernel for small systems on the CPU: plan, states and gradients of the methods `eig` and `chain`.

   A Python module of the limited API (one build serves Python 3.10 and newer). It takes addresses and strides, which
   linode/kernels/small.py has checked, and releases the interpreter's lock. Batches are shared out among threads that
   live as long as the call. The numerics are in small_kernel.h, which is compiled once for every x86-64 processor and
   once for those with AVX2 and FMA; which of the two runs is decided when the module is imported. LAPACK comes from
   SciPy (scipy.linalg.cython_lapack).                                                                               */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* ---- constants: the ones that methods/eig.py, methods/chain.py and kernels/ name alike have the same values ------ */

#define MOST_STATES 64          /* n: beyond, products of BLAS are faster */
#define MOST_THREADS 64
#define GROUP 8                 /* trajectories that share their times' functions */
#define BLOCK 64                /* times at once: their functions stay in the cache */
#define PART 512               /* times of a part */
#define MOST_PARTS 64
#define NODES 16                /* nodes at once, for the same reason */
#define N_TERMS 18              /* of the polynomial between nodes; F has 24: kernels/dense.py */
#define REACH 1.9               /* |A^p|^(1/p), p >= 4, of a step */
#define MOST_NODES 256.0        /* of a plan */
#define LATEST 1e307            /* time: multiples of a step must not overflow */
#define LARGEST_NODE 320        /* that is asked for: beyond is refused */
#define MOST_UNITS 100.0        /* shift t: units of rounding that small diagonal entries may lose to the shift */
#define MOST_RATIO 4.0          /* |A| beside the roots of its powers: how far these may fall behind */
#define MOST_SHIFT 16.0         /* in a step */
#define NEAR 0.03               /* gap t_max below which divided differences are taken time by time */
#define NEAR_RELATIVE 0.01      /* gap beside the eigenvalues below which they are too */
#define GRADIENT_SLACK 4.0
#define GRADED 128.0            /* |A| s / |lambda| beyond which a mode is refined */
#define MIN_GAP 1e4             /* in units of the eigenvalues' rounding error */
#define MAX_EXPLAINED 1e6
#define REACH_BACK 4.0          /* a plan for times up to t_max is good for times up to t_max / this too */
#define MOST_SIZE 1e90          /* of |Xi| and 1 / |Xi| */

#define HEADER 6                /* numbers at the head of a plan: of eig, and of chain */
enum { PAIRS, VERDICT, KAPPA, AMPLIFICATION, T_NEEDED, KIND };
enum { STEP, SHIFT, BOUND };
enum { EIG, CHAIN, COMPLEX }; /* KIND of a plan: the method, and COMPLEX more for complex Xi */
enum { REFUSED, ACCEPTED, WITH_DELICATE }; /* verdicts; the last: some pairs of modes are to be subtracted time by time */

#define LOG2_E 1.4426950408889634
#define LN2_HIGH 0x1.62e42fefp-1  /* log 2 in two parts, the first of 33 bits: its multiples are exact */
#define LN2_LOW 0x1.473de6af278edp-34
#define TWO_OVER_PI 0.6366197723675814
#define HALF_PI_1 0x1.921fb544p+0 /* pi / 2 in parts of 33 bits: their multiples by up to 2^20 are exact */
#define HALF_PI_2 0x1.0b4611a6p-34
#define HALF_PI_3 0x1.3198a2e037073p-69
#define LARGEST_ANGLE 1e6
#define TO_INTEGER 0x1.8p+52 /* x + this - this is the integer nearest to x */
#define MODULUS(x, y) sqrt((x) * (x) + (y) * (y))
#define PADDED(n) (((n) + 3) / 4 * 4)

static const double INVERSE_FACTORIAL[24] = {
    1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800,
    1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800, 1.0 / 87178291200, 1.0 / 1307674368000, 1.0 / 20922789888000,
    1.0 / 355687428096000, 1.0 / 6402373705728000, 1.0 / 121645100408832000, 1.0 / 2432902008176640000,
    1.0 / 51090942171709440000.0, 1.0 / 1124000727777607680000.0, 1.0 / 25852016738884976640000.0,
};
static const double INVERSE[N_TERMS] = {
    1.0, 1.0, 1.0 / 2, 1.0 / 3, 1.0 / 4, 1.0 / 5, 1.0 / 6, 1.0 / 7, 1.0 / 8, 1.0 / 9, 1.0 / 10, 1.0 / 11, 1.0 / 12,
    1.0 / 13, 1.0 / 14, 1.0 / 15, 1.0 / 16, 1.0 / 17,
};

/* ---- what is asked ------------------------------------------------------------------------------------------------ */

enum { FLOAT, DOUBLE, COMPLEX_FLOAT, COMPLEX_DOUBLE };

typedef struct {
    const char *data;
    long long stride[4]; /* in entries: of systems, trajectories (or rows of a matrix), times, states */
    int code;
} Strided;

typedef struct {
    int is_complex, z_code;
    long S, R, T, n;
    double limit, t_max;
    const double *latest; /* (S,) the largest time of each system, NULL where it is t_max of all */
    double *plan;
    Strided A, z0, t, g;
    void *z, *S_out, *a;            /* contiguous */
    atomic_int *failed; /* set where times lie beyond a plan */
    long parts;      /* of one system's trajectories or times, that threads share */
    double *partial; /* what the parts of a gradient give */
} Arguments;

typedef void (*Work)(const Arguments *task, long system, long part, double *memory);
typedef long (*Doubles)(const Arguments *task);
typedef struct { /* functions of a method, and how much memory each wants */
    Work plan;
    Doubles plan_doubles;
    Work states;
    Doubles states_doubles;
    Work part;
    Doubles part_doubles, part_numbers;
    Work vjp;
    Doubles vjp_doubles;
} Kernel;

typedef struct { /* of numbers in a row */
    int (*bounds)(const double *x, long long n, double *least, double *most);
    int (*sizes)(const double *x, long long n, double *least, double *most);
    int (*sizes_of_floats)(const float *x, long long n, double *least, double *most);
} Bounds;

/* Trajectories r0 .. r1 at their times i0 .. i1. */
typedef struct {
    long r0, r1, i0, i1;
} Range;

static struct {
    void (*dgeev)(char *, char *, int *, double *, int *, double *, double *, double *, int *, double *, int *, double *,
                  int *, int *);
    void (*zgeev)(char *, char *, int *, double *, int *, double *, double *, int *, double *, int *, double *, int *,
                  double *, int *);
    void (*dgetrf)(int *, int *, double *, int *, int *, int *);
    void (*zgetrf)(int *, int *, double *, int *, int *, int *);
    void (*dgetri)(int *, double *, int *, int *, double *, int *, int *);
    void (*zgetri)(int *, double *, int *, int *, double *, int *, int *);
} lapack;

/* Of a plan: its header, lambda, V and V^-1 as complex numbers, and n^2 bytes that are 1 for delicate pairs of modes. */
static long eig_numbers(long n) { return HEADER + 2 * n + 4 * n * n + (n * n + 7) / 8; }

static long chain_numbers(long n, int is_complex)
{
    long w = is_complex ? 2 * n : n;
    return HEADER + 2 * w * PADDED(w);
}

/* ---- reading and writing ------------------------------------------------------------------------------------------ */

/* Rows i .. i + count of n entries as doubles, a complex entry as two; the rest of a row of `row` doubles is 0. */
static void read_rows(const Strided *x, long s, long r, long i, long count, long n, double *out, long row)
{
    long long step = x->stride[3];
    for (long q = 0; q < count; q++, out += row) {
        long long first = s * x->stride[0] + r * x->stride[1] + (i + q) * x->stride[2];
        long w = n;
        if (x->code == DOUBLE) {
            const double *from = (const double *)x->data + first;
            for (long j = 0; j < n; j++)
                out[j] = from[j * step];
        } else if (x->code == FLOAT) {
            const float *from = (const float *)x->data + first;
            for (long j = 0; j < n; j++)
                out[j] = from[j * step];
        } else if (x->code == COMPLEX_DOUBLE) {
            const double *from = (const double *)x->data + 2 * first;
            for (long j = 0; j < n; j++)
                out[2 * j] = from[2 * j * step], out[2 * j + 1] = from[2 * j * step + 1];
            w = 2 * n;
        } else {
            const float *from = (const float *)x->data + 2 * first;
            for (long j = 0; j < n; j++)
                out[2 * j] = from[2 * j * step], out[2 * j + 1] = from[2 * j * step + 1];
            w = 2 * n;
        }
        for (long j = w; j < row; j++)
            out[j] = 0;
    }
}

/* `count` times from number i on, then zeros up to a multiple of 4. */
static void read_times(const Strided *t, long s, long r, long i, long count, double *out)
{
    const double *from = (const double *)t->data + s * t->stride[0] + r * t->stride[1] + i * t->stride[2];
    for (long q = 0; q < count; q++)
        out[q] = from[q * t->stride[2]];
    for (long q = count; q < PADDED(count); q++)
        out[q] = 0;
}

/* Rows of `row` doubles as contiguous rows of n entries, from entry `first` of `out` on. */
static void write_rows(void *out, int code, long first, long count, long n, const double *x, long row)
{
    long w = code == COMPLEX_FLOAT || code == COMPLEX_DOUBLE ? 2 * n : n;
    long long place = (long long)first * (w / n);
    if (code == DOUBLE || code == COMPLEX_DOUBLE) {
        double *to = (double *)out + place;
        for (long q = 0; q < count; q++, x += row, to += w)
            memcpy(to, x, sizeof(double) * w);
    } else {
        float *to = (float *)out + place;
        for (long q = 0; q < count; q++, x += row, to += w)
            for (long j = 0; j < w; j++)
                to[j] = (float)x[j];
    }
}

/* ---- parts --------------------------------------------------------------------------------------------------------- */

/* How many parts a single system has: some GROUPs of trajectories each, or else, where the method allows it, times. The
   number does not depend on that of the threads, so that results do not. */
static long parts_of(const Arguments *task, int may_split_times)
{
    long parts = 1;
    if (task->S == 1 && task->R >= 2 * GROUP)
        parts = task->R / GROUP;
    else if (task->S == 1 && may_split_times)
        parts = task->T / PART;
    return parts < 1 ? 1 : parts > MOST_PARTS ? MOST_PARTS : parts;
}

static int splits_trajectories(const Arguments *task) { return task->parts > 1 && task->R >= 2 * GROUP; }

static Range range_of(const Arguments *task, long part)
{
    Range whole = {0, task->R, 0, task->T};
    if (splits_trajectories(task))
        whole.r0 = task->R * part / task->parts, whole.r1 = task->R * (part + 1) / task->parts;
    else if (task->parts > 1) {
        long blocks = (task->T + BLOCK - 1) / BLOCK;
        whole.i0 = blocks * part / task->parts * BLOCK, whole.i1 = blocks * (part + 1) / task->parts * BLOCK;
        whole.i1 = whole.i1 < task->T ? whole.i1 : task->T;
    }
    return whole;
}

/* ---- chain: the step ---------------------------------------------------------------------------------------------- */

/* The largest step with rate H <= REACH, of few binary digits so that multiples of it are exact, and no longer than need
   be: half of it then holds all times up to t_max. */
static double step_for(double rate, double t_max, int digits)
{
    double longest = 1.0;
    int exponent;
    if (t_max > 0) {
        frexp(fmin(t_max, LATEST), &exponent);
        longest = ldexp(1.0, exponent + 1 > 1023 ? 1023 : exponent + 1);
    }
    if (!(rate * longest > REACH))
        return longest;
    double fraction = frexp(fmax(REACH / rate, 1e-300), &exponent);
    return ldexp(floor(ldexp(fraction, digits)), exponent - digits);
}

/* ---- the kernel, for two kinds of processors ---------------------------------------------------------------------- */

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

#define NAME(x) x##_any
#include "small_kernel.h"
#undef NAME

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define NAME(x) x##_avx2
#include "small_kernel.h"
#undef NAME
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

static const Kernel *kernels = kernels_any;
static const Bounds *look = &look_any;

/* ---- threads ------------------------------------------------------------------------------------------------------ */

typedef struct {
    const Arguments *task;
    Work work;
    long doubles, n_items, n_parts;
    atomic_long next; /* item */
    atomic_int no_memory;
} Queue;

static void *serve(void *given)
{
    Queue *queue = given;
    double *memory = malloc(sizeof(double) * (size_t)(queue->doubles + 8));
    if (!memory) {
        atomic_store(&queue->no_memory, 1);
        return NULL;
    }
    for (long i; (i = atomic_fetch_add(&queue->next, 1)) < queue->n_items;)
        queue->work(queue->task, i / queue->n_parts, i % queue->n_parts, memory);
    free(memory);
    return NULL;
}

/* Work on n_parts parts of every system, by at most `threads` threads, this one among them; 0 where there was no memory. */
static int run(const Arguments *task, Work work, Doubles doubles, long n_parts, long threads)
{
    Queue queue = {task, work, doubles(task), task->S * n_parts, n_parts, 0, 0};
    pthread_t others[MOST_THREADS];
    long started = 0, wanted = threads < queue.n_items ? threads : queue.n_items;
    wanted = wanted < MOST_THREADS ? wanted : MOST_THREADS;
    while (started < wanted - 1 && !pthread_create(&others[started], NULL, serve, &queue))
        started++;
    serve(&queue);
    for (long i = 0; i < started; i++)
        pthread_join(others[i], NULL);
    return !atomic_load(&queue.no_memory);
}

/* ---- the module --------------------------------------------------------------------------------------------------- */

/* The next arguments, one after the other. */
typedef struct {
    PyObject *const *values;
    Py_ssize_t left;
} Reader;

static long long next_integer(Reader *reader)
{
    if (reader->left <= 0)
        return PyErr_SetString(PyExc_TypeError, "too few arguments"), 0;
    reader->left--;
    return PyLong_AsLongLong(*reader->values++);
}

static double next_number(Reader *reader)
{
    if (reader->left <= 0)
        return PyErr_SetString(PyExc_TypeError, "too few arguments"), 0;
    reader->left--;
    return PyFloat_AsDouble(*reader->values++);
}

static const int MATRIX[3] = {0, 1, 3}, VECTOR[3] = {0, 1, 3}, TIMES[3] = {0, 1, 2}, STATES[4] = {0, 1, 2, 3};

static Strided next_strided(Reader *reader, int code, int n_strides, const int *places)
{
    Strided x = {(const char *)(intptr_t)next_integer(reader), {0, 0, 0, 0}, code};
    for (int i = 0; i < n_strides; i++)
        x.stride[places[i]] = next_integer(reader);
    return x;
}

static int is_wrong(const Arguments *task)
{
    if (!PyErr_Occurred() && (task->n < 1 || task->n > MOST_STATES || task->S < 0 || task->R < 0 || task->T < 0 ||
                              task->z_code < FLOAT || task->z_code > COMPLEX_DOUBLE))
        PyErr_SetString(PyExc_ValueError, "sizes beyond those of the compiled kernel");
    return PyErr_Occurred() != NULL;
}

enum { BEYOND_THE_PLAN = 1, NOT_FINITE }; /* answers of `states` and `vjp`, beside 0 */

static PyObject *answer(int has_memory, long value)
{
    return has_memory ? PyLong_FromLong(value) : PyErr_NoMemory();
}

/* What all systems are, exactly, that makes their eigenvectors unitary: 1 diagonal, 2 Hermitian, 3 skew-Hermitian; or 0. */
static int structure_of(const Arguments *task)
{
    int is_diagonal = 1, is_hermitian = 1, is_skew = 1;
    long n = task->n, w = task->is_complex ? 2 : 1;
    double row[2 * MOST_STATES], column[2 * MOST_STATES];
    Strided flipped = task->A;
    flipped.stride[1] = task->A.stride[3], flipped.stride[3] = task->A.stride[1];
    for (long s = 0; s < task->S; s++)
        for (long i = 0; i < n; i++) {
            read_rows(&task->A, s, i, 0, 1, n, row, 0);
            read_rows(&flipped, s, i, 0, 1, n, column, 0);
            for (long j = 0; j < n; j++) {
                double re = row[w * j], im = w == 2 ? row[w * j + 1] : 0, a = column[w * j];
                double b = w == 2 ? column[w * j + 1] : 0;
                is_diagonal &= i == j || (re == 0 && im == 0);
                is_hermitian &= re == a && im == -b;
                is_skew &= re == -a && im == b;
            }
            if (!(is_diagonal | is_hermitian | is_skew))
                return 0;
        }
    return is_diagonal ? 1 : is_hermitian ? 2 : 3;
}

/* Numbers of a plan of one system. */
static long plan_numbers(const Arguments *task, int is_chain)
{
    return is_chain ? chain_numbers(task->n, task->is_complex) : eig_numbers(task->n);
}

/* The next matrices: their dtype, address and strides, how many they are, and n. */
static void next_matrices(Reader *reader, Arguments *task)
{
    task->z_code = (int)next_integer(reader), task->is_complex = task->z_code >= COMPLEX_FLOAT;
    task->A = next_strided(reader, task->z_code, 3, MATRIX);
    task->S = (long)next_integer(reader), task->n = (long)next_integer(reader);
}

/* The plans of all systems, one after the other, as a bytearray; how many the method's own check refuses; the time that
   its check holds from; and the structure of Xi, if `eig` is asked and there is one: then the plans are empty. */
static PyObject *make_plan(PyObject *self, PyObject *const *values, Py_ssize_t count)
{
    (void)self;
    Reader reader = {values, count};
    Arguments task = {0};
    int is_chain = next_integer(&reader) != 0;
    next_matrices(&reader, &task);
    task.limit = next_number(&reader), task.t_max = next_number(&reader);
    task.latest = (const double *)(intptr_t)next_integer(&reader);
    long threads = (long)next_integer(&reader), n_refused = 0;
    if (is_wrong(&task))
        return NULL;
    int has_memory = 1, kind = is_chain ? 0 : structure_of(&task);
    long numbers = plan_numbers(&task, is_chain);
    double t_needed = 0;
    PyObject *plans = PyByteArray_FromStringAndSize(NULL, kind ? 0 : (Py_ssize_t)sizeof(double) * numbers * task.S);
    if (!plans || kind)
        return plans ? Py_BuildValue("(Nldi)", plans, task.S, t_needed, kind) : NULL;
    task.plan = (double *)(void *)PyByteArray_AsString(plans);
    Py_BEGIN_ALLOW_THREADS
    has_memory = run(&task, kernels[is_chain].plan, kernels[is_chain].plan_doubles, 1, threads);
    for (long s = 0; has_memory && s < task.S; s++) {
        double *header = task.plan + s * numbers;
        n_refused += !(is_chain ? header[BOUND] <= task.limit : header[VERDICT] != REFUSED);
        t_needed = is_chain ? 0 : fmax(t_needed, header[T_NEEDED]);
        header[KIND] = (is_chain ? CHAIN : EIG) + (task.is_complex ? COMPLEX : 0);
    }
    Py_END_ALLOW_THREADS
    if (has_memory)
        return Py_BuildValue("(Nldi)", plans, n_refused, t_needed, kind);
    Py_DECREF(plans);
    return PyErr_NoMemory();
}

/* The next dtype, sizes, z0 and t. */
static void next_trajectories(Reader *reader, Arguments *task)
{
    task->z_code = (int)next_integer(reader), task->is_complex = task->z_code >= COMPLEX_FLOAT;
    task->S = (long)next_integer(reader), task->R = (long)next_integer(reader);
    task->T = (long)next_integer(reader), task->n = (long)next_integer(reader);
    task->z0 = next_strided(reader, task->z_code, 3, VECTOR);
    task->t = next_strided(reader, DOUBLE, 3, TIMES);
}

/* What `states` and `vjp` have in common: plans, and trajectories that they fit; whether the method is `chain`, or -1. */
static int next_question(Reader *reader, Arguments *task)
{
    PyObject *plans = reader->left > 0 ? *reader->values : NULL;
    if (!plans || !PyByteArray_Check(plans))
        return PyErr_SetString(PyExc_TypeError, "plans must be a bytearray"), -1;
    reader->values++, reader->left--;
    next_trajectories(reader, task);
    if (is_wrong(task))
        return -1;
    task->plan = (double *)(void *)PyByteArray_AsString(plans);
    size_t bytes = (size_t)PyByteArray_Size(plans);
    int kind = bytes >= HEADER * sizeof(double) ? (int)task->plan[KIND] : EIG, is_chain = kind % COMPLEX == CHAIN;
    if (bytes != (size_t)plan_numbers(task, is_chain) * (size_t)task->S * sizeof(double) ||
        (bytes && kind / COMPLEX != task->is_complex))
        return PyErr_SetString(PyExc_ValueError, "the compiled kernel does not take these plans: they are of other systems"), -1;
    return is_chain;
}

static PyObject *states(PyObject *self, PyObject *const *values, Py_ssize_t count)
{
    (void)self;
    Reader reader = {values, count};
    Arguments task = {0};
    atomic_int failed = 0;
    int is_chain = next_question(&reader, &task);
    if (is_chain < 0)
        return NULL;
    task.z = (void *)(intptr_t)next_integer(&reader);
    long threads = (long)next_integer(&reader);
    task.failed = &failed;
    if (PyErr_Occurred())
        return NULL;
    int has_memory;
    Py_BEGIN_ALLOW_THREADS
    task.parts = parts_of(&task, !is_chain);
    has_memory = run(&task, kernels[is_chain].states, kernels[is_chain].states_doubles, task.parts, threads);
    Py_END_ALLOW_THREADS
    return answer(has_memory, atomic_load(&failed));
}

/* max |x| of n numbers in a row (of the larger part where they are complex), NaN where there is one. */
static double largest_of(int code, const void *data, long long n)
{
    double least = 0, most = 0;
    n *= code >= COMPLEX_FLOAT ? 2 : 1;
    int has_nan = code == DOUBLE || code == COMPLEX_DOUBLE ? look->sizes(data, n, &least, &most)
                                                          : look->sizes_of_floats(data, n, &least, &most);
    return has_nan ? NAN : most;
}

static PyObject *vjp(PyObject *self, PyObject *const *values, Py_ssize_t count)
{
    (void)self;
    Reader reader = {values, count};
    Arguments task = {0};
    atomic_int failed = 0;
    int is_chain = next_question(&reader, &task);
    if (is_chain < 0)
        return NULL;
    task.g = next_strided(&reader, task.z_code, 4, STATES);
    task.S_out = (void *)(intptr_t)next_integer(&reader), task.a = (void *)(intptr_t)next_integer(&reader);
    long threads = (long)next_integer(&reader);
    task.failed = &failed;
    if (PyErr_Occurred())
        return NULL;
    int has_memory = 1, is_finite;
    Py_BEGIN_ALLOW_THREADS
    const Kernel *own = &kernels[is_chain];
    task.parts = parts_of(&task, !is_chain);
    if (task.parts > 1) {
        task.partial = malloc(sizeof(double) * (size_t)(own->part_numbers(&task) * task.parts));
        has_memory = task.partial && run(&task, own->part, own->part_doubles, task.parts, threads);
    }
    has_memory = has_memory && run(&task, own->vjp, own->vjp_doubles, 1, threads);
    free(task.partial);
    is_finite = isfinite(largest_of(task.z_code, task.S_out, (long long)task.S * task.n * task.n)) &&
                isfinite(largest_of(task.z_code, task.a, (long long)task.S * task.R * task.n));
    Py_END_ALLOW_THREADS
    return answer(has_memory, atomic_load(&failed) ? BEYOND_THE_PLAN : is_finite ? 0 : NOT_FINITE);
}

/* The largest |Xi|_1 of all systems, NaN where an entry is. */
static double one_norm_of(const Arguments *task)
{
    long n = task->n, has_nan = 0;
    double most = 0, sums[MOST_STATES], row[2 * MOST_STATES];
    for (long s = 0; s < task->S; s++) {
        memset(sums, 0, sizeof sums);
        for (long i = 0; i < n; i++) {
            read_rows(&task->A, s, i, 0, 1, n, row, 0);
            for (long j = 0; j < n; j++)
                sums[j] += task->is_complex ? hypot(row[2 * j], row[2 * j + 1]) : fabs(row[j]);
        }
        for (long j = 0; j < n; j++)
            most = sums[j] > most ? sums[j] : most, has_nan |= sums[j] != sums[j];
    }
    return has_nan ? NAN : most;
}

static PyObject *structure(PyObject *self, PyObject *const *values, Py_ssize_t count)
{
    (void)self;
    Reader reader = {values, count};
    Arguments task = {0};
    next_matrices(&reader, &task);
    return is_wrong(&task) ? NULL : PyLong_FromLong(structure_of(&task));
}

static PyObject *largest(PyObject *self, PyObject *const *values, Py_ssize_t count)
{
    (void)self;
    Reader reader = {values, count};
    int code = (int)next_integer(&reader);
    const void *data = (const void *)(intptr_t)next_integer(&reader);
    long long n = next_integer(&reader);
    return PyErr_Occurred() ? NULL : PyFloat_FromDouble(largest_of(code, data, n));
}

static PyObject *extremes(PyObject *self, PyObject *const *values, Py_ssize_t count)
{
    (void)self;
    Reader reader = {values, count};
    const double *data = (const double *)(intptr_t)next_integer(&reader);
    long long n = next_integer(&reader);
    double least = 0, most = 0;
    if (PyErr_Occurred())
        return NULL;
    if (look->bounds(data, n, &least, &most))
        least = most = NAN;
    return Py_BuildValue("(dd)", least, most);
}

/* max |z0| of all trajectories, and the smallest of one that is not 0; min(0, t) and max(0, t); NaN where there is one.
   What expand() repeats is read once. */
static void look_over(const Arguments *task, double *largest, double *smallest, double *least, double *most)
{
    double row[2 * MOST_STATES], times[BLOCK], below = 0;
    int has_nan = 0, z_has_nan = 0;
    long n_doubles = task->n * (task->is_complex ? 2 : 1);
    for (int of_times = 0; of_times < 2; of_times++) {
        const Strided *x = of_times ? &task->t : &task->z0;
        long S = x->stride[0] ? task->S : task->S > 0, R = x->stride[1] ? task->R : task->R > 0;
        for (long s = 0; s < S; s++)
            for (long r = 0; r < R; r++) {
                if (!of_times) {
                    double own = 0;
                    read_rows(x, s, r, 0, 1, task->n, row, 0);
                    z_has_nan |= look->sizes(row, n_doubles, &below, &own);
                    *largest = fmax(*largest, own);
                    *smallest = own > 0 ? fmin(*smallest, own) : *smallest;
                } else if (x->stride[2] == 1)
                    has_nan |= look->bounds((const double *)x->data + s * x->stride[0] + r * x->stride[1], task->T, least, most);
                else
                    for (long i = 0; i < task->T; i += BLOCK) {
                        long some = task->T - i < BLOCK ? task->T - i : BLOCK;
                        read_times(x, s, r, i, some, times);
                        has_nan |= look->bounds(times, some, least, most);
                    }
            }
    }
    *largest = z_has_nan ? NAN : *largest;
    if (has_nan)
        *least = *most = NAN;
}

/* Whether a system is real and has no negative entry off its diagonal. */
static int has_metzler(const Arguments *task)
{
    double row[2 * MOST_STATES];
    for (long s = 0; !task->is_complex && s < task->S; s++) {
        int is_metzler = 1;
        for (long i = 0; is_metzler && i < task->n; i++) {
            read_rows(&task->A, s, i, 0, 1, task->n, row, 0);
            for (long j = 0; j < task->n; j++)
                is_metzler &= i == j || row[j] >= 0;
        }
        if (is_metzler)
            return 1;
    }
    return 0;
}

/* All that a question is judged by: |Xi|_1, whether all Xi are diagonal, whether one is a Metzler matrix, max |z0|,
   min(0, t) and max(0, t), and the smallest max |z0| of a trajectory that is not 0, infinite where there is none. */
static PyObject *sizes(PyObject *self, PyObject *const *values, Py_ssize_t count)
{
    (void)self;
    Reader reader = {values, count};
    Arguments task = {0}, of_Xi = {0};
    next_matrices(&reader, &of_Xi);
    if (reader.left)
        next_trajectories(&reader, &task);
    double largest = 0, smallest = INFINITY, least = 0, most = 0;
    if (is_wrong(&of_Xi) || (task.n && is_wrong(&task)))
        return NULL;
    look_over(&task, &largest, &smallest, &least, &most);
    PyObject *is_diagonal = structure_of(&of_Xi) == 1 ? Py_True : Py_False, *is_metzler = has_metzler(&of_Xi) ? Py_True : Py_False;
    return Py_BuildValue("(dOOdddd)", one_norm_of(&of_Xi), is_diagonal, is_metzler, largest, least, most, smallest);
}

/* Takes LAPACK's functions from the capsules of scipy.linalg.cython_lapack. */
static PyObject *use_lapack(PyObject *self, PyObject *capsules)
{
    (void)self;
    struct {
        const char *name;
        void *place;
    } wanted[] = {{"dgeev", &lapack.dgeev},   {"zgeev", &lapack.zgeev},   {"dgetrf", &lapack.dgetrf},
                  {"zgetrf", &lapack.zgetrf}, {"dgetri", &lapack.dgetri}, {"zgetri", &lapack.zgetri}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        PyObject *capsule = PyDict_GetItemString(capsules, wanted[i].name);
        void *function = capsule ? PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule)) : NULL;
        if (!function)
            return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ImportError, "LAPACK has no %s", wanted[i].name);
        memcpy(wanted[i].place, &function, sizeof function);
    }
    Py_RETURN_NONE;
}

static PyMethodDef METHODS[] = {
    {"plan", (PyCFunction)(void (*)(void))make_plan, METH_FASTCALL, "Plans of all systems, and how many are refused."},
    {"structure", (PyCFunction)(void (*)(void))structure, METH_FASTCALL, "What makes all eigenvectors unitary, or 0."},
    {"states", (PyCFunction)(void (*)(void))states, METH_FASTCALL, "z; 1 where times lie beyond the plan."},
    {"vjp", (PyCFunction)(void (*)(void))vjp, METH_FASTCALL, "dL/dXi and dL/dz0; 1: times lie beyond the plan, 2: something overflowed."},
    {"largest", (PyCFunction)(void (*)(void))largest, METH_FASTCALL, "max |x|."},
    {"extremes", (PyCFunction)(void (*)(void))extremes, METH_FASTCALL, "min(0, x) and max(0, x)."},
    {"sizes", (PyCFunction)(void (*)(void))sizes, METH_FASTCALL, "|Xi|_1, kinds of Xi, max |z0|, least and largest t."},
    {"use_lapack", use_lapack, METH_O, "Takes the functions of scipy.linalg.cython_lapack.__pyx_capi__."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_small", NULL, -1, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__small(void)
{
    const char *instructions = "any";
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        kernels = kernels_avx2, look = &look_avx2, instructions = "avx2";
#endif
    PyObject *module = PyModule_Create(&MODULE);
    if (module && (PyModule_AddStringConstant(module, "INSTRUCTIONS", instructions) ||
                   PyModule_AddIntConstant(module, "MOST_STATES", MOST_STATES) ||
                   PyModule_AddIntConstant(module, "HEADER", HEADER))) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
