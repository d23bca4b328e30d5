// What an nn.Module holds besides its class's code, read from its __dict__ as nn.Module does.
#pragma once

#include <Python.h>

namespace faststeer {

// Finds torch's registry of global hooks, and names. Throws where torch has neither.
void find_module_state();

// Whether calling the module runs its class's forward and nothing else: it has no hooks, there are
// no global ones, and no `forward` is set on the instance. Never sets a Python error.
bool runs_plainly(PyObject* module);

// An entry of the module's __dict__, or of a dict in it; borrowed, and null where there is none.
PyObject* attribute(PyObject* module, PyObject* name);
PyObject* parameter(PyObject* module, PyObject* name);

}  // namespace faststeer
