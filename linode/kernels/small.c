/* The compiled kernel for small systems on the CPU: plan, states and gradients of the methods `eig` and `chain`.

   A Python module of the limited API (one build serves Python 3.10 and newer). It takes tensors, reads in one place where
   their numbers lie (views.h) and checks shapes and types there; it releases the interpreter's lock. Batches are shared
   out among threads that live as long as the call. The numerics are in small_kernel.h, which is compiled once for every x86-64 processor and
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

#include "views.h"

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

#define MOST_ENTRIES (1 << 20)  /* that one thread looks at; beyond, torch's threads are faster */
#define WORK_OF_A_THREAD 2e6    /* multiplications that take some 100 us, twice what it takes to start a thread, on an AMD EPYC */

/* How many threads pay for so many multiplications; `run` takes no more than there are systems or parts. */
static long threads_for(double work)
{
    if (!(work >= 2 * WORK_OF_A_THREAD))
        return 1;
    PyObject *answer = PyObject_CallObject(torch_.n_threads, NULL);
    long most = answer ? PyLong_AsLong(answer) : 1;
    Py_XDECREF(answer);
    PyErr_Clear();
    double wanted = work / WORK_OF_A_THREAD;
    return most < 1 ? 1 : wanted < (double)most ? (long)wanted : most;
}

/* Whether x is Xi (S, n, n), or (n, n), of a size that the kernel takes; which is then told. */
static int has_matrices(PyObject *x, Arguments *task)
{
    View view;
    if (!is_plain(x, &view, &task->z_code) || view.n_dims < 2 || view.n_dims > 3)
        return 0;
    int last = view.n_dims - 1;
    int64_t n = view.shape[last];
    if (n < 1 || n > MOST_STATES || view.shape[last - 1] != n)
        return 0;
    task->is_complex = task->z_code >= COMPLEX_FLOAT, task->n = (long)n;
    task->S = last == 2 ? (long)view.shape[0] : 1;
    Strided A = {view.data, {last == 2 ? view.strides[0] : 0, view.strides[last - 1], 0, view.strides[last]}, task->z_code};
    task->A = A;
    return 1;
}

/* Whether z0 is (S, R, n), and t (S, R, T); or z0 (n,) and t (T,); or, of so many systems, z0 (S, n), or (R, n) of one,
   and t (T,) or (S, T) or (R, T); of sizes that the kernel takes, which are then told. */
static int has_trajectories(PyObject *z0, PyObject *t, int64_t n_systems, Arguments *task)
{
    View starts, times;
    int of_times;
    if (!is_plain(z0, &starts, &task->z_code) || !is_plain(t, &times, &of_times) || of_times != DOUBLE)
        return 0;
    int last = starts.n_dims - 1;
    if (last < 0 || last > 2 || starts.shape[last] < 1 || starts.shape[last] > MOST_STATES)
        return 0;
    if (last == 1 && n_systems != 1 && n_systems != starts.shape[0])
        return 0;
    if (times.n_dims != last + 1 && (last != 1 || times.n_dims != 1))
        return 0;
    for (int i = 0; i < times.n_dims - 1; i++)
        if (times.shape[i] != starts.shape[i])
            return 0;
    int64_t sizes[2] = {1, 1}, of_z0[2] = {0, 0}, of_t[2] = {0, 0};
    for (int i = 0; i < last; i++) {
        int place = last == 2 ? i : n_systems == 1; /* 0: systems, 1: their trajectories */
        sizes[place] = starts.shape[i], of_z0[place] = starts.strides[i];
        of_t[place] = times.n_dims == starts.n_dims ? times.strides[i] : 0;
    }
    task->is_complex = task->z_code >= COMPLEX_FLOAT, task->n = (long)starts.shape[last];
    task->S = (long)sizes[0], task->R = (long)sizes[1], task->T = (long)times.shape[times.n_dims - 1];
    Strided z = {starts.data, {of_z0[0], of_z0[1], 0, starts.strides[last]}, task->z_code};
    Strided at = {times.data, {of_t[0], of_t[1], times.strides[times.n_dims - 1], 0}, DOUBLE};
    task->z0 = z, task->t = at;
    return 1;
}

/* Whether x is a new array of a dtype and size for what is written. */
static int has_room(PyObject *x, int code, int64_t count, void **place)
{
    View view;
    int own;
    if (!is_plain(x, &view, &own) || own != code || entries_of(&view) != count || !is_in_a_row(&view))
        return 0;
    *place = view.data;
    return 1;
}

static PyObject *refused(const char *what)
{
    return PyErr_Format(PyExc_ValueError, "the compiled kernel does not take %s", what);
}

/* How many dimensions a plain tensor has. */
static int n_dims_of(PyObject *x)
{
    View view;
    int code;
    return is_plain(x, &view, &code) ? view.n_dims : -1;
}

/* Whether a tensor is plain and its numbers begin there. */
static int lies_at(PyObject *x, const void *place)
{
    View view;
    int code;
    return is_plain(x, &view, &code) && view.data == place;
}

/* Checks the number of arguments. */
static int has_arguments(Py_ssize_t count, Py_ssize_t wanted)
{
    if (count != wanted)
        PyErr_Format(PyExc_TypeError, "%d arguments were needed, not %d", (int)wanted, (int)count);
    return count == wanted;
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

/* The plans of all systems, one after the other, as a bytearray; how many the method's own check refuses; the time that
   its check holds from; and the structure of Xi, if `eig` is asked and there is one: then the plans are empty.
   None where Xi is not taken. Arguments: the method, Xi, its limit,
   t_max, and the largest time of each system, or None. */
static PyObject *make_plan(PyObject *self, PyObject *const *values, Py_ssize_t count)
{
    (void)self;
    Arguments task = {0};
    if (!has_arguments(count, 5))
        return NULL;
    int is_chain = PyLong_AsLong(values[0]) != 0;
    task.limit = PyFloat_AsDouble(values[2]), task.t_max = PyFloat_AsDouble(values[3]);
    if (PyErr_Occurred())
        return NULL;
    if (!has_matrices(values[1], &task) || task.S < 1 || is_watched())
        Py_RETURN_NONE;
    View latest;
    int code;
    if (values[4] != Py_None) {
        if (!is_plain(values[4], &latest, &code) || code != DOUBLE || !is_in_a_row(&latest) || entries_of(&latest) != task.S)
            return refused("latest times: one double for each system");
        task.latest = latest.data;
    }
    long threads = threads_for((double)task.S * 30.0 * pow((double)task.n, 3)), n_refused = 0;
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

/* Whether plans fit z0 and t, which are then told: the method is `chain`, or it is not; -1 with an error. */
static int next_question(PyObject *plans, PyObject *z0, PyObject *t, Arguments *task)
{
    if (!PyByteArray_Check(plans))
        return PyErr_SetString(PyExc_TypeError, "plans must be a bytearray"), -1;
    task->plan = (double *)(void *)PyByteArray_AsString(plans);
    View starts;
    int code, last;
    int64_t numbers = PyByteArray_Size(plans) / (Py_ssize_t)sizeof(double), n_systems = -1;
    int kind = numbers >= HEADER ? (int)task->plan[KIND] : EIG, is_chain = kind % COMPLEX == CHAIN;
    if (is_plain(z0, &starts, &code) && (last = starts.n_dims - 1) == 1 && starts.shape[last] >= 1 && starts.shape[last] <= MOST_STATES) {
        task->n = (long)starts.shape[last], task->is_complex = code >= COMPLEX_FLOAT;
        n_systems = numbers / plan_numbers(task, is_chain);
    }
    if (!has_trajectories(z0, t, n_systems, task)) {
        refused(n_systems < 0 ? "z0 and t" : "these plans: they are of other systems");
        return -1;
    }
    if (PyByteArray_Size(plans) != (Py_ssize_t)sizeof(double) * plan_numbers(task, is_chain) * task->S ||
        (numbers && kind / COMPLEX != task->is_complex)) {
        refused("these plans: they are of other systems");
        return -1;
    }
    return is_chain;
}

/* Writes z; 1 where times lie beyond the plan. Arguments: plans, z0, t, z. */
static PyObject *states(PyObject *self, PyObject *const *values, Py_ssize_t count)
{
    (void)self;
    Arguments task = {0};
    atomic_int failed = 0;
    if (!has_arguments(count, 4))
        return NULL;
    int is_chain = next_question(values[0], values[1], values[2], &task);
    if (is_chain < 0)
        return NULL;
    int64_t n_states = (int64_t)task.S * task.R * task.T;
    if (!has_room(values[3], task.z_code, n_states * task.n, &task.z))
        return refused("z");
    long threads = threads_for((double)n_states * (20.0 + (double)task.n) * (double)task.n);
    task.failed = &failed;
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

/* Writes dL/dXi and dL/dz0; 1: times lie beyond the plan, 2: something overflowed; None: g is not taken. Arguments: plans, z0, t, where these
   two lay when z was asked for, g, dL/dXi, dL/dz0. */
static PyObject *vjp(PyObject *self, PyObject *const *values, Py_ssize_t count)
{
    (void)self;
    Arguments task = {0};
    atomic_int failed = 0;
    if (!has_arguments(count, 8))
        return NULL;
    void *z_place = PyLong_AsVoidPtr(values[3]), *t_place = PyLong_AsVoidPtr(values[4]);
    if (PyErr_Occurred())
        return NULL;
    if (!lies_at(values[1], z_place) || !lies_at(values[2], t_place))
        return PyErr_Format(PyExc_RuntimeError, "z0 or t was put elsewhere in memory (x.data = ..., x.resize_(...)) before backward");
    int is_chain = next_question(values[0], values[1], values[2], &task);
    if (is_chain < 0)
        return NULL;
    View g;
    int code, first, last, n_starts = n_dims_of(values[1]);
    if (!is_plain(values[5], &g, &code) || code != task.z_code || g.n_dims != n_starts + 1)
        Py_RETURN_NONE;
    first = g.n_dims - 2, last = g.n_dims - 1;
    if (g.shape[first] != task.T || g.shape[last] != task.n || entries_of(&g) != (int64_t)task.S * task.R * task.T * task.n)
        Py_RETURN_NONE;
    Strided cotangents = {g.data, {0, 0, g.strides[first], g.strides[last]}, code};
    for (int i = 0; i < first; i++) {
        int place = first == 2 ? i : task.S == 1;
        if (g.shape[i] != (place ? task.R : task.S))
            Py_RETURN_NONE;
        cotangents.stride[place] = g.strides[i];
    }
    task.g = cotangents;
    if (!has_room(values[6], code, (int64_t)task.S * task.n * task.n, &task.S_out) ||
        !has_room(values[7], code, (int64_t)task.S * task.R * task.n, &task.a))
        return refused("the arrays for gradients");
    long threads = threads_for((double)task.S * (double)task.R * (double)task.T * (40.0 + (double)task.n) * (double)task.n);
    task.failed = &failed;
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

/* What makes all eigenvectors unitary, or 0; None where Xi is not taken. */
static PyObject *structure(PyObject *self, PyObject *Xi)
{
    (void)self;
    Arguments task = {0};
    if (!has_matrices(Xi, &task))
        Py_RETURN_NONE;
    return PyLong_FromLong(structure_of(&task));
}

/* Whether x holds few enough plain numbers, one after the other, to be looked at here. */
static int is_row(PyObject *x, View *view, int *code)
{
    return is_plain(x, view, code) && is_in_a_row(view) && entries_of(view) <= MOST_ENTRIES && !is_watched();
}

/* max |x|, or None where x is not looked at here. */
static PyObject *largest(PyObject *self, PyObject *x)
{
    (void)self;
    View view;
    int code;
    if (!is_row(x, &view, &code))
        Py_RETURN_NONE;
    return PyFloat_FromDouble(largest_of(code, view.data, entries_of(&view)));
}

/* min(0, x) and max(0, x), or None where x is not looked at here. */
static PyObject *extremes(PyObject *self, PyObject *x)
{
    (void)self;
    View view;
    int code;
    double least = 0, most = 0;
    if (!is_row(x, &view, &code) || code != DOUBLE)
        Py_RETURN_NONE;
    if (look->bounds(view.data, entries_of(&view), &least, &most))
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

/* |Xi|_1, whether all Xi are diagonal, and whether one is a Metzler matrix; None where Xi is not looked at here. */
static PyObject *sizes(PyObject *self, PyObject *Xi)
{
    (void)self;
    Arguments task = {0};
    if (!has_matrices(Xi, &task) || (int64_t)task.S * task.n * task.n > MOST_ENTRIES || is_watched())
        Py_RETURN_NONE;
    return Py_BuildValue("(dOO)", one_norm_of(&task), structure_of(&task) == 1 ? Py_True : Py_False, has_metzler(&task) ? Py_True : Py_False);
}

/* Where z0 and t lie; and, if Xi is no None and both are small enough to be looked at here, all that a question is judged
   by: what `sizes` tells, max |z0|, min(0, t) and max(0, t), and the smallest max |z0| of a trajectory that is not 0,
   infinite where there is none. None where z0 and t are not taken. Arguments: Xi, z0, t. */
static PyObject *look_at(PyObject *self, PyObject *const *values, Py_ssize_t count)
{
    (void)self;
    Arguments task = {0}, of_Xi = {0};
    if (!has_arguments(count, 3))
        return NULL;
    int has_Xi = values[0] != Py_None && has_matrices(values[0], &of_Xi);
    if (!has_trajectories(values[1], values[2], has_Xi ? of_Xi.S : -1, &task) || is_watched())
        Py_RETURN_NONE;
    void *starts = (void *)(intptr_t)task.z0.data, *times = (void *)(intptr_t)task.t.data;
    if (!has_Xi || of_Xi.n != task.n || (int64_t)task.S * task.R * task.T > MOST_ENTRIES)
        return Py_BuildValue("(NN)", PyLong_FromVoidPtr(starts), PyLong_FromVoidPtr(times));
    double largest = 0, smallest = INFINITY, least = 0, most = 0;
    look_over(&task, &largest, &smallest, &least, &most);
    return Py_BuildValue("(NNdOOdddd)", PyLong_FromVoidPtr(starts), PyLong_FromVoidPtr(times), one_norm_of(&of_Xi),
                         structure_of(&of_Xi) == 1 ? Py_True : Py_False, has_metzler(&of_Xi) ? Py_True : Py_False, largest, least, most, smallest);
}

/* Whether Xi (n, n) or (S, n, n), and z0 (n,), (S, n) or (R, n), are plain, and all sums of their moduli are numbers. */
static PyObject *is_system(PyObject *self, PyObject *const *values, Py_ssize_t count)
{
    (void)self;
    Arguments task = {0};
    View z0;
    int code;
    if (!has_arguments(count, 2))
        return NULL;
    if (!is_plain(values[1], &z0, &code) || z0.n_dims < 1 || z0.n_dims > 2 || !has_matrices(values[0], &task) ||
        task.n != z0.shape[z0.n_dims - 1] || is_watched())
        Py_RETURN_FALSE;
    int64_t R = z0.n_dims == 2 ? z0.shape[0] : 1;
    if ((z0.n_dims == 2 && R != task.S && n_dims_of(values[0]) == 3) || (task.S + R / task.n) * task.n * task.n > MOST_ENTRIES)
        Py_RETURN_FALSE;
    double largest = 0, smallest = INFINITY, least = 0, most = 0, norm = one_norm_of(&task);
    Strided start = {z0.data, {0, z0.n_dims == 2 ? z0.strides[0] : 0, 0, z0.strides[z0.n_dims - 1]}, code};
    task.z0 = start, task.S = 1, task.R = (long)R, task.T = 0, task.is_complex = code >= COMPLEX_FLOAT;
    look_over(&task, &largest, &smallest, &least, &most);
    return PyBool_FromLong(isfinite(largest) && isfinite(norm));
}

/* The number of dimensions of plain times, float64; 0 for others. */
static PyObject *rank_of_times(PyObject *self, PyObject *t)
{
    (void)self;
    View view;
    int code;
    return PyLong_FromLong(is_plain(t, &view, &code) && code == DOUBLE && !is_watched() ? view.n_dims : 0);
}

/* Whether the kernel takes Xi (S, n, n), or (n, n), if there is a system. */
static PyObject *serves(PyObject *self, PyObject *Xi)
{
    (void)self;
    Arguments task = {0};
    return PyBool_FromLong(has_matrices(Xi, &task) && task.S > 0 && !is_watched());
}

static PyObject *n_threads(PyObject *self, PyObject *work)
{
    (void)self;
    double value = PyFloat_AsDouble(work);
    return PyErr_Occurred() ? NULL : PyLong_FromLong(threads_for(value));
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

#define FUNCTION(name) (PyCFunction)(void (*)(void))name
static PyMethodDef METHODS[] = {
    {"plan", FUNCTION(make_plan), METH_FASTCALL, "Plans of all systems, and how many are refused."},
    {"states", FUNCTION(states), METH_FASTCALL, "Writes z; 1 where times lie beyond the plan."},
    {"vjp", FUNCTION(vjp), METH_FASTCALL, "Writes dL/dXi and dL/dz0; 1: times lie beyond the plan, 2: something overflowed."},
    {"look", FUNCTION(look_at), METH_FASTCALL, "Where z0 and t lie, and what a question is judged by."},
    {"is_system", FUNCTION(is_system), METH_FASTCALL, "Whether Xi (n, n) and z0 (n,) are plain and finite."},
    {"rank_of_times", rank_of_times, METH_O, "The number of dimensions of plain times; 0 for others."},
    {"serves", serves, METH_O, "Whether the kernel takes Xi."},
    {"structure", structure, METH_O, "What makes all eigenvectors unitary, or 0."},
    {"sizes", sizes, METH_O, "|Xi|_1 and kinds of Xi."},
    {"largest", largest, METH_O, "max |x|."},
    {"extremes", extremes, METH_O, "min(0, x) and max(0, x)."},
    {"n_threads", n_threads, METH_O, "How many threads pay for so many multiplications."},
    {"use_lapack", use_lapack, METH_O, "Takes the functions of scipy.linalg.cython_lapack.__pyx_capi__."},
    {"use_torch", use_torch, METH_VARARGS, "Takes torch's table of DLPack, its classes and functions."},
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
