/* Where the numbers of a torch tensor lie, read in C: DLPack's table of functions for C (DLPack 1.3,
   https://dmlc.github.io/dlpack/latest), which torch.Tensor.__dlpack_c_exchange_api__ holds. One tensor takes 0.1 us;
   its attributes, asked for in Python, take 1 us. */

typedef struct {
    int32_t type, id;
} Device;

typedef struct {
    uint8_t code, bits;
    uint16_t lanes;
} Dtype;

typedef struct { /* DLTensor */
    void *data;
    Device device;
    int32_t n_dims;
    Dtype dtype;
    int64_t *shape, *strides; /* strides in entries */
    uint64_t offset;          /* bytes */
} View;

typedef struct { /* DLPackExchangeAPI, version 1 */
    uint32_t major, minor;
    void *older, *allocate, *export, *import;
    int (*view)(void *tensor, View *view);
    void *stream;
} Table;

enum { FLOAT, DOUBLE, COMPLEX_FLOAT, COMPLEX_DOUBLE }; /* codes of dtypes here */
enum { ON_CPU = 1, OF_FLOATS = 2, OF_COMPLEX = 5 }; /* codes of DLPack */

static struct {
    const Table *table;
    PyObject *types[2];           /* plain tensors: other classes may keep their numbers elsewhere */
    PyObject *is_watched[2];      /* functions: whether something wants to see every operator */
    PyObject *is_negated, *is_conjugated, *n_threads; /* names of methods; a function */
} torch_;

/* Takes the table, the two classes, the two functions and that which counts threads. */
static PyObject *use_torch(PyObject *self, PyObject *arguments)
{
    (void)self;
    PyObject *capsule, *plain, *parameter, *modes, *tracing, *n_threads;
    if (!PyArg_ParseTuple(arguments, "OOOOOO", &capsule, &plain, &parameter, &modes, &tracing, &n_threads))
        return NULL;
    const Table *table = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    if (!table)
        return NULL;
    if (table->major != 1 || !table->view)
        return PyErr_Format(PyExc_ImportError, "torch exchanges tensors by DLPack %d, not 1", (int)table->major);
    PyObject *kept[] = {plain, parameter, modes, tracing, n_threads};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        Py_INCREF(kept[i]);
    torch_.types[0] = plain, torch_.types[1] = parameter;
    torch_.is_watched[0] = modes, torch_.is_watched[1] = tracing, torch_.n_threads = n_threads;
    torch_.is_negated = PyUnicode_InternFromString("is_neg");
    torch_.is_conjugated = PyUnicode_InternFromString("is_conj");
    if (!torch_.is_negated || !torch_.is_conjugated)
        return NULL;
    torch_.table = table;
    Py_RETURN_NONE;
}

static int64_t entries_of(const View *view)
{
    int64_t count = 1;
    for (int i = 0; i < view->n_dims; i++)
        count *= view->shape[i];
    return count;
}

/* Whether a call gives something that is true; an error counts as that. */
static int is_true(PyObject *answer)
{
    int value = answer ? PyObject_IsTrue(answer) : 1;
    Py_XDECREF(answer);
    if (PyErr_Occurred())
        PyErr_Clear();
    return value != 0;
}

/* Whether a mode of torch, or a tracer, wants to see every operator: then none may be left out. */
static int is_watched(void)
{
    return is_true(PyObject_CallObject(torch_.is_watched[0], NULL)) || is_true(PyObject_CallObject(torch_.is_watched[1], NULL));
}

/* Whether the numbers of x lie in memory of the CPU as they are, as floats of a code; the view of them. */
static int is_plain(PyObject *x, View *view, int *code)
{
    PyObject *type = (PyObject *)Py_TYPE(x);
    if (!torch_.table || (type != torch_.types[0] && type != torch_.types[1]))
        return 0;
    if (torch_.table->view(x, view)) { /* a transform of torch.func has wrapped it, or it has another layout */
        PyErr_Clear();
        return 0;
    }
    int bits = view->dtype.bits, is_complex = view->dtype.code == OF_COMPLEX;
    if (view->device.type != ON_CPU || (!is_complex && view->dtype.code != OF_FLOATS) || (view->n_dims && !view->strides))
        return 0;
    if (bits != (is_complex ? 64 : 32) && bits != (is_complex ? 128 : 64))
        return 0;
    *code = (is_complex ? COMPLEX_FLOAT : FLOAT) + (bits == (is_complex ? 128 : 64));
    if (!view->data && entries_of(view))
        return 0;
    view->data = (char *)view->data + view->offset;
    if (is_true(PyObject_CallMethodObjArgs(x, torch_.is_negated, NULL))) /* a sign that torch has put off */
        return 0;
    return !is_complex || !is_true(PyObject_CallMethodObjArgs(x, torch_.is_conjugated, NULL));
}

/* Whether the numbers lie one after the other. */
static int is_in_a_row(const View *view)
{
    int64_t step = 1;
    for (int i = view->n_dims - 1; i >= 0; i--) {
        if (view->shape[i] > 1 && view->strides[i] != step)
            return entries_of(view) == 0;
        step *= view->shape[i];
    }
    return 1;
}
