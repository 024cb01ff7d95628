/* States of small systems in double-double arithmetic, to measure the rounding error of others.

   A Python module of the limited API (one build serves Python 3.10 and newer). It takes addresses of contiguous arrays,
   which linode/kernels/wide.py has checked, and releases the interpreter's lock. The numerics are in wide_kernel.h. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define STEP_TERMS 22   /* |A| H <= 1/4, in the sense of powers: 4^-23 / 23! = 2^-121 is left out */
#define STATE_TERMS 20  /* of half a step: 8^-21 / 21! = 2^-128 */
#define LATEST 0x1p95   /* node: of later ones no digit is known, and they count as this one */

/* 1 / j - c and s / j - c, of which c is the nearest double */
#define INVERSE_REST(c, j) (fma(-(c), (double)(j), 1.0) / (double)(j))
#define QUOTIENT_REST(s, c, j) (fma(-(c), (double)(j), (s)) / (double)(j))

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define HAS_FMA 1
#else
#define HAS_FMA 0
#endif
#define NAME(name) name
#include "wide_kernel.h"
#undef NAME
#undef HAS_FMA

typedef struct {
    void (*powers)(double *, long, long, long, double *);
    void (*state)(double *, const double *, const double *, double, double, long, long, double *);
} Kernel;

static Kernel kernel = {powers, state};

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
    double *spare = malloc((size_t)size * sizeof *spare);
    if (!spare)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    for (long s = 0; s < S; s++)
        kernel.powers(plan + s * size * (levels + 1), n, w, levels, spare);
    Py_END_ALLOW_THREADS
    free(spare);
    Py_RETURN_NONE;
}

/* states(plan, S, n, levels, R, T, z0, t, H, z): times >= 0; 1 where one lies beyond the powers of the plan. */
static PyObject *make_states(PyObject *self, PyObject *arguments)
{
    (void)self;
    long long at_plan, at_z0, at_t, at_H, at_z;
    long S, n, levels, R, T;
    if (!PyArg_ParseTuple(arguments, "LlllllLLLL", &at_plan, &S, &n, &levels, &R, &T, &at_z0, &at_t, &at_H, &at_z))
        return NULL;
    const double *plan = (const double *)(intptr_t)at_plan, *z0 = (const double *)(intptr_t)at_z0;
    const double *t = (const double *)(intptr_t)at_t, *H = (const double *)(intptr_t)at_H;
    double *z = (double *)(intptr_t)at_z;
    long w = padded(n), size = 2 * n * w * (levels + 1), failed = 0;
    double *v = malloc(6 * (size_t)w * sizeof *v), limit = ldexp(1.0, (int)levels);
    if (!v)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    for (long s = 0; s < S; s++)
        for (long r = 0; r < R; r++)
            for (long i = 0; i < T; i++, t++, z += n) {
                double node = fmin(rint(*t / H[s]), LATEST), rest = fmin((*t - node * H[s]) / H[s], 0.5);
                if (!(node >= 0 && node < limit)) {
                    failed = 1;
                    continue;
                }
                kernel.state(v, plan + s * size, z0 + (s * R + r) * n, node, rest, n, w, v + 2 * w);
                for (long j = 0; j < n; j++)
                    z[j] = v[j];
            }
    Py_END_ALLOW_THREADS
    free(v);
    return PyLong_FromLong(failed);
}

/* distances(x, y, count, size, out): 2-norms of x - y and of y, for `count` vectors of `size` numbers each. They are
   scaled, as squares may leave the range of floats. */
static PyObject *distances(PyObject *self, PyObject *arguments)
{
    (void)self;
    long long at_x, at_y, at_out;
    long count, size;
    if (!PyArg_ParseTuple(arguments, "LLllL", &at_x, &at_y, &count, &size, &at_out))
        return NULL;
    const double *x = (const double *)(intptr_t)at_x, *y = (const double *)(intptr_t)at_y;
    double *out = (double *)(intptr_t)at_out;
    Py_BEGIN_ALLOW_THREADS
    for (long i = 0; i < count; i++, x += size, y += size)
        for (int which = 0; which < 2; which++) {
            double most = 0, sum = 0;
            for (long j = 0; j < size; j++) {
                double own = fabs(which ? y[j] : x[j] - y[j]);
                most = own > most || own != own ? own : most;
            }
            for (long j = 0; j < size && most > 0 && most <= DBL_MAX; j++) {
                double own = (which ? y[j] : x[j] - y[j]) / most;
                sum += own * own;
            }
            out[2 * i + which] = sum > 0 ? most * sqrt(sum) : most;
        }
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef METHODS[] = {
    {"plan", make_plan, METH_VARARGS, "Powers of the step of all systems."},
    {"states", make_states, METH_VARARGS, "z; 1 where times lie beyond the plan."},
    {"distances", distances, METH_VARARGS, "2-norms of differences and of the second vectors."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_wide", NULL, -1, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__wide(void)
{
#ifdef HAS_CHOICE
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        kernel.powers = powers_fma, kernel.state = state_fma;
#endif
    return PyModule_Create(&MODULE);
}
