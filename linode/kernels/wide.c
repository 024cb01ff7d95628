/* States of small systems in double-double arithmetic, to measure the rounding error of others, and condition numbers
   from the same powers.

   A Python module of the limited API (one build serves Python 3.10 and newer). It takes addresses of contiguous arrays,
   which linode/kernels/wide.py has checked, and releases the interpreter's lock. The numerics are in wide_kernel.h and
   condition_kernel.h. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define STEP_POWERS 5    /* of A H that are multiplied out */
#define STEP_TERMS 24    /* |A| H <= 1/4, in the sense of powers: 4^-25 / 25! = 2^-134 is left out */
#define STATE_TERMS 20   /* of half a step: 8^-21 / 21! = 2^-128 */
#define LATEST 0x1p95    /* node: of later ones no digit is known, and they count as this one */
#define MOST_LEVELS 96   /* of a plan: linode/kernels/wide.py */
#define TANGENT_TERMS 8  /* of a derivative, of which two digits are wanted: 4^-9 / 9! = 1e-11 */
#define TINY 0x1p-900    /* z0 below which states are those of LIFT z0, so that products have all their digits */
#define LIFT 0x1p128
#define MOST_TURNS 20    /* of the power iteration, */
#define CONVERGED 0.005  /* which ends at this relative change */

/* 1 / j - c, of which c is the nearest double */
#define INVERSE_REST(c, j) (fma(-(c), (double)(j), 1.0) / (double)(j))

static double inverse_factorial[STEP_TERMS + 1][2]; /* 1 / j!, hi and lo */

typedef struct { /* of one trajectory: times t >= 0, or times t < 0 with -A in the place of A */
    const double *plan, *scales; /* D of D^-1 A D, NULL for ones */
    long levels, used;           /* of the plan, 0 where there is none; and of them those that the trajectory needs */
    double H, sign, size;        /* |A H| before it was scaled */
    double *scale, *sums, *terms, *slopes, *of_terms, *of_slopes, *back_terms, *D, *spare, *row;
} Way;

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define HAS_FMA 1
#else
#define HAS_FMA 0
#endif
#define NAME(name) name
#include "wide_kernel.h"
#include "condition_kernel.h"
#undef NAME
#undef HAS_FMA

typedef struct {
    void (*powers)(double *, long, long, long, double *);
    void (*terms)(double *, const double *, const double *, long, long);
    void (*state)(double *, const double *, const double *, double, double, long, long, double *);
    double (*condition)(Way *, long, long, int, const double *, const double *, long, double *);
} Kernel;

static Kernel kernel = {powers, terms, state, condition};

#if defined(__x86_64__) && !defined(__FMA__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define HAS_FMA 1
#define NAME(name) name##_fma
#include "wide_kernel.h"
#include "condition_kernel.h"
#undef NAME
#undef HAS_FMA
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#define HAS_CHOICE 1
#endif

static long padded(long n)
{
    return (n + 3) / 4 * 4;
}

/* plan(address, S, n, levels): the powers from A H, transposed, in the first matrix of each system's part. */
static PyObject *make_plan(PyObject *self, PyObject *arguments)
{
    (void)self;
    long long address;
    long S, n, levels;
    if (!PyArg_ParseTuple(arguments, "Llll", &address, &S, &n, &levels))
        return NULL;
    double *plan = (double *)(intptr_t)address;
    long w = padded(n), size = 2 * n * w;
    double *spare = malloc(STEP_POWERS * (size_t)size * sizeof *spare);
    if (!spare)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    for (long s = 0; s < S; s++)
        kernel.powers(plan + s * size * (levels + 1), n, w, levels, spare);
    Py_END_ALLOW_THREADS
    free(spare);
    Py_RETURN_NONE;
}

/* 2-norms of x - y and of y, scaled, as squares may leave the range of floats. */
static void distance(const double *x, const double *y, long count, double *out)
{
    for (int which = 0; which < 2; which++) {
        double most = 0, sum = 0;
        for (long j = 0; j < count; j++) {
            double own = fabs(which ? y[j] : x[j] - y[j]);
            most = own > most || own != own ? own : most;
        }
        for (long j = 0; j < count && most > 0 && most <= DBL_MAX; j++) {
            double own = (which ? y[j] : x[j] - y[j]) / most;
            sum += own * own;
        }
        out[which] = sum > 0 ? most * sqrt(sum) : most;
    }
}

typedef struct { /* of all systems, for times of one sign: see `Powers` in linode/kernels/wide.py */
    const double *numbers, *H, *D;
    long levels;
} Powers;

typedef struct {
    Powers ways[2]; /* for t >= 0, and for t < 0; of no levels where there are none */
    long S, R, T, n, w; /* n: of real states, w: padded */
    int is_complex;
    const double *z0, *t;
} Question;

/* From (forth, back, is_complex, S, R, T, n, z0, t, other): forth and back each the places of numbers, H and D, and the
   number of levels. */
static int read_question(PyObject *arguments, Question *question, long long *other)
{
    long long numbers[2], H[2], D[2], z0, t;
    if (!PyArg_ParseTuple(arguments, "(LLLl)(LLLl)pllllLLL", numbers, H, D, &question->ways[0].levels, numbers + 1, H + 1,
                          D + 1, &question->ways[1].levels, &question->is_complex, &question->S, &question->R,
                          &question->T, &question->n, &z0, &t, other))
        return 0;
    for (int i = 0; i < 2; i++) {
        question->ways[i].numbers = (const double *)(intptr_t)numbers[i];
        question->ways[i].H = (const double *)(intptr_t)H[i], question->ways[i].D = (const double *)(intptr_t)D[i];
    }
    question->w = padded(question->n);
    question->z0 = (const double *)(intptr_t)z0, question->t = (const double *)(intptr_t)t;
    return 1;
}

/* Place of the k-th real number of a state in memory, where parts of complex numbers lie side by side. */
static inline long place_of(long k, long n, int is_complex)
{
    return !is_complex ? k : k < n / 2 ? 2 * k : 2 * (k - n / 2) + 1;
}

/* The states (S, R, T, n) in z; or, where z is NULL, for every trajectory |x - y| and |y| of the states y and others x,
   in `out`. 0 where times lie beyond the powers. */
static int follow_all(const Question *question, double *z, const double *x, double *out, double *memory)
{
    long n = question->n, w = question->w, T = question->T;
    const double *t = question->t;
    double *v = memory, *spare = v + 2 * w, *y = spare + 2 * w, *terms[2];
    terms[0] = y + n * T, terms[1] = terms[0] + 2 * (STATE_TERMS + 1) * w;
    for (long s = 0; s < question->S; s++)
        for (long r = 0; r < question->R; r++) {
            const double *z0 = question->z0 + (s * question->R + r) * n;
            int has_terms[2] = {0, 0};
            double *own = z ? z : y, most = 0, up;
            for (long k = 0; k < n; k++)
                most = fmax(most, fabs(z0[k]));
            up = most < TINY ? LIFT : 1;
            for (long i = 0; i < T; i++, t++) {
                int which = *t < 0;
                const Powers *way = question->ways + which;
                if (!way->levels)
                    return 0;
                const double *plan = way->numbers + 2 * n * w * (way->levels + 1) * s, *D = way->D ? way->D + s * n : NULL;
                double H = way->H[s], at = fabs(*t), node = fmin(rint(at / H), LATEST);
                if (!(node < ldexp(1.0, (int)way->levels)))
                    return 0;
                if (!has_terms[which]) {
                    memset(v, 0, sizeof(double) * 2 * (size_t)w);
                    for (long k = 0; k < n; k++)
                        v[k] = z0[place_of(k, n, question->is_complex)] * up / (D ? D[k] : 1);
                    kernel.terms(terms[which], plan, v, n, w);
                    has_terms[which] = 1;
                }
                kernel.state(v, plan, terms[which], node, fmin((at - node * H) / H, 0.5), n, w, spare);
                for (long k = 0; k < n; k++)
                    own[i * n + place_of(k, n, question->is_complex)] = v[k] * (D ? D[k] : 1) / up;
            }
            if (z)
                z += n * T;
            else {
                distance(x, y, n * T, out);
                x += n * T, out += 2;
            }
        }
    return 1;
}

static PyObject *beyond(void)
{
    PyErr_SetString(PyExc_ValueError, "times are not numbers, or beyond those of the powers");
    return NULL;
}

/* Numbers that `follow_all` needs. */
static size_t memory_of(const Question *question)
{
    return (size_t)((4 + 4 * (STATE_TERMS + 1)) * question->w + question->n * question->T);
}

/* states(..., z) */
static PyObject *make_states(PyObject *self, PyObject *arguments)
{
    (void)self;
    Question question;
    long long at_z;
    int is_within;
    if (!read_question(arguments, &question, &at_z))
        return NULL;
    double *memory = malloc(sizeof(double) * memory_of(&question));
    if (!memory)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    is_within = follow_all(&question, (double *)(intptr_t)at_z, NULL, NULL, memory);
    Py_END_ALLOW_THREADS
    free(memory);
    if (!is_within)
        return beyond();
    Py_RETURN_NONE;
}

/* distances_from(..., x): for every trajectory the 2-norms of x - y and of y, the states, over all times. */
static PyObject *distances_from(PyObject *self, PyObject *arguments)
{
    (void)self;
    Question question;
    long long at_x;
    int is_within;
    if (!read_question(arguments, &question, &at_x))
        return NULL;
    long count = question.S * question.R;
    double *memory = malloc(sizeof(double) * (memory_of(&question) + 2 * (size_t)count));
    if (!memory)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    is_within = follow_all(&question, NULL, (const double *)(intptr_t)at_x, memory, memory + 2 * count);
    Py_END_ALLOW_THREADS
    PyObject *pairs = is_within ? PyList_New(count) : beyond();
    for (long i = 0; pairs && i < count; i++) {
        PyObject *pair = Py_BuildValue("(dd)", memory[2 * i], memory[2 * i + 1]);
        if (!pair || PyList_SetItem(pairs, i, pair)) {
            Py_DECREF(pairs);
            pairs = NULL;
        }
    }
    free(memory);
    return pairs;
}

/* conditions(..., out): relative condition numbers of all trajectories. */
static PyObject *conditions(PyObject *self, PyObject *arguments)
{
    (void)self;
    Question question;
    long long at_out;
    int is_within = 1;
    if (!read_question(arguments, &question, &at_out))
        return NULL;
    double *out = (double *)(intptr_t)at_out;
    long n = question.n, w = question.w, T = question.T, size = n * w;
    long wanted = 2 * size + (2 * T + MOST_LEVELS + 4) * w + 2 * T;
    for (int i = 0; i < 2; i++)
        wanted += (TANGENT_TERMS + 3 + 2 * question.ways[i].levels) * size + (3 * TANGENT_TERMS + 5) * w;
    double *memory = malloc(sizeof(double) * (size_t)wanted);
    if (!memory)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    for (long s = 0; s < question.S && is_within; s++) {
        Way ways[2];
        double *start = memory, *rest = memory + w;
        for (int i = 0; i < 2; i++) {
            const Powers *own = question.ways + i;
            Way *way = ways + i;
            way->levels = own->levels, way->sign = i ? -1 : 1;
            if (own->levels) {
                way->plan = own->numbers + 2 * size * (own->levels + 1) * s;
                way->H = own->H[s], way->scales = own->D ? own->D + s * n : NULL;
            }
            way->sums = rest, way->slopes = way->sums + (TANGENT_TERMS + 1) * size;
            way->of_slopes = way->slopes + own->levels * size, way->D = way->of_slopes + own->levels * size;
            way->spare = way->D + size, way->terms = way->spare + size;
            way->of_terms = way->terms + (TANGENT_TERMS + 1) * w;
            way->back_terms = way->of_terms + (TANGENT_TERMS + 1) * w;
            way->row = way->back_terms + (TANGENT_TERMS + 1) * w, way->scale = way->row + w;
            rest = way->scale + w;
        }
        for (long r = 0; r < question.R && is_within; r++) {
            long place = s * question.R + r;
            for (long k = 0; k < n; k++)
                start[k] = question.z0[place * n + place_of(k, n, question.is_complex)];
            out[place] = kernel.condition(ways, n, w, question.is_complex, start, question.t + place * T, T, rest);
            is_within = !(out[place] < 0);
        }
    }
    Py_END_ALLOW_THREADS
    free(memory);
    if (!is_within)
        return beyond();
    Py_RETURN_NONE;
}

static PyMethodDef METHODS[] = {
    {"plan", make_plan, METH_VARARGS, "Powers of the step of all systems."},
    {"states", make_states, METH_VARARGS, "z."},
    {"distances_from", distances_from, METH_VARARGS, "Of every trajectory the distance of others from it, and its norm."},
    {"conditions", conditions, METH_VARARGS, "Relative condition numbers of trajectories."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_wide", NULL, -1, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__wide(void)
{
    inverse_factorial[0][0] = 1;
    for (int j = 1; j <= STEP_TERMS; j++) {
        double *last = inverse_factorial[j - 1], *own = inverse_factorial[j];
        own[0] = last[0] / j;
        own[1] = (fma(-own[0], j, last[0]) + last[1]) / j;
    }
#ifdef HAS_CHOICE
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        kernel = (Kernel){powers_fma, terms_fma, state_fma, condition_fma};
#endif
    return PyModule_Create(&MODULE);
}
