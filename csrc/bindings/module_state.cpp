#include "bindings/module_state.h"

#include <pybind11/pybind11.h>

#include <string>

namespace faststeer {
namespace {

// Names of the dicts of hooks that an instance has, and that torch keeps for all modules.
PyObject* own_hooks[4];
PyObject* global_hooks[4];
PyObject* forward_name;
PyObject* parameters_name;
PyObject* of_all_modules;  // the __dict__ of torch.nn.modules.module

PyObject* interned(const char* name) {
  PyObject* text = PyUnicode_InternFromString(name);
  if (text == nullptr) throw pybind11::error_already_set();
  return text;
}

// Borrowed; null where there is none.
PyObject* item(PyObject* dict, PyObject* name) {
  PyObject* found = PyDict_GetItemWithError(dict, name);
  if (found == nullptr) PyErr_Clear();
  return found;
}

// Whether all of these are dicts without an item.
bool are_empty(PyObject* dict, PyObject* const (&names)[4]) {
  for (PyObject* name : names) {
    PyObject* hooks = item(dict, name);
    if (hooks == nullptr || !PyDict_Check(hooks) || PyDict_Size(hooks) != 0) return false;
  }
  return true;
}

// Borrowed from the object, which keeps it.
PyObject* dict_of(PyObject* object) {
  PyObject* dict = PyObject_GenericGetDict(object, nullptr);
  if (dict == nullptr) {
    PyErr_Clear();
    return nullptr;
  }
  Py_DECREF(dict);
  return dict;
}

}  // namespace

void find_module_state() {
  const char* hooks[] = {"forward_pre_hooks", "forward_hooks", "backward_pre_hooks",
                         "backward_hooks"};
  for (int i = 0; i < 4; ++i) {
    own_hooks[i] = interned((std::string("_") + hooks[i]).c_str());
    global_hooks[i] = interned((std::string("_global_") + hooks[i]).c_str());
  }
  forward_name = interned("forward");
  parameters_name = interned("_parameters");
  const pybind11::module_ torch = pybind11::module_::import("torch.nn.modules.module");
  of_all_modules = pybind11::object(torch.attr("__dict__")).release().ptr();
}

bool runs_plainly(PyObject* module) {
  PyObject* own = dict_of(module);
  return own != nullptr && item(own, forward_name) == nullptr && are_empty(own, own_hooks) &&
         are_empty(of_all_modules, global_hooks);
}

PyObject* attribute(PyObject* module, PyObject* name) {
  PyObject* own = dict_of(module);
  return own == nullptr ? nullptr : item(own, name);
}

PyObject* parameter(PyObject* module, PyObject* name) {
  PyObject* all = attribute(module, parameters_name);
  return all == nullptr || !PyDict_Check(all) ? nullptr : item(all, name);
}

}  // namespace faststeer
