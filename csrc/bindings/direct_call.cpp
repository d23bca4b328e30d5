// The dispatcher takes 3.1 us for an op with this many arguments, more than the kernel takes for a
// row of 4096. See docs/decisions.md.
#include "bindings/direct_call.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>

#include "bindings/dlpack_views.h"
#include "bindings/module_state.h"
#include "common/checked_call.h"
#include "cpu/parallel.h"

namespace faststeer {
namespace {

// Results above this size are left to the op, which asks for huge pages; a dispatch is nothing
// then.
constexpr int64_t kMostElements = int64_t{1} << 20;
// A kernel that takes less than some 10 us keeps the interpreter's lock.
constexpr int64_t kLockedElements = int64_t{1} << 14;

PyObject* empty_like = nullptr;
PyObject* weight_name = nullptr;
PyObject* is_grad_enabled = nullptr;

// Functions of torch that answer 0, False or None where no one but the caller has to see a call.
PyObject* watchers[4];

// An attribute, for as long as the process lives.
PyObject* kept(const pybind11::object& owner, const char* name) {
  return pybind11::object(owner.attr(name)).release().ptr();
}

// The tensors of a call, as Python gave them.
struct Given {
  PyObject *x, *residual, *vectors, *index, *coefficient, *modes;

  bool read_into(SteerNormCall& call) const {
    return read(x, "x", call.x) && read(residual, "residual", call.residual) &&
           read(vectors, "vectors", call.vectors) && read(index, "index", call.index) &&
           read(coefficient, "coefficient", call.coefficient) && read(modes, "modes", call.modes);
  }
};

Given given_without_norm(PyObject* const* x_and_residual, PyObject* const* entries) {
  return {x_and_residual[0], x_and_residual[1], entries[0], entries[1], entries[2], entries[3]};
}

// The four entries that a tuple holds.
PyObject* const* items_of(PyObject* entries) {
  if (!PyTuple_Check(entries) || PyTuple_GET_SIZE(entries) != 4) {
    throw pybind11::type_error("expected a tuple of vectors, index, coefficient and modes");
  }
  return PySequence_Fast_ITEMS(entries);
}

double number(PyObject* object) {
  const double value = PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred() != nullptr) throw pybind11::error_already_set();
  return value;
}

bool answers_yes(PyObject* function) {
  PyObject* answer = PyObject_CallNoArgs(function);
  if (answer == nullptr) throw pybind11::error_already_set();
  const int yes = PyObject_IsTrue(answer);
  Py_DECREF(answer);
  return yes != 0;
}

// Whether a tracer, a mode or the profiler has to see the call.
bool is_watched() { return std::any_of(std::begin(watchers), std::end(watchers), answers_yes); }

void run(const SteerNormCall& call) {
  const SteerNormArgs args = checked(call);
  if (args.tokens * args.hidden <= kLockedElements) return run_steer_norm(args);
  const pybind11::gil_scoped_release others_may_run;
  run_steer_norm(args);
}

pybind11::object fresh(PyObject* like, const char* name, View& view) {
  PyObject* tensor = PyObject_CallOneArg(empty_like, like);
  if (tensor == nullptr) throw pybind11::error_already_set();
  pybind11::object owner = pybind11::reinterpret_steal<pybind11::object>(tensor);
  if (!read(tensor, name, view)) throw std::runtime_error("torch.empty_like made another tensor");
  return owner;
}

bool on_cpu(const View& view) { return view.device.type == Device::Type::cpu; }

// Whether the kernel may run at once. checked() sees to it that all tensors are on one device.
bool suits_direct_call(const SteerNormCall& call) {
  return on_cpu(call.residual) && call.residual.is_contiguous() &&
         call.residual.numel() <= kMostElements;
}

// The op into fresh tensors, with a norm where call.weight is set. `overwrite`: the new residual
// takes the place of the old one.
pybind11::object run_into_fresh(const Given& given, SteerNormCall& call, bool overwrite = false) {
  if (!suits_direct_call(call)) return pybind11::none();
  const bool norms = call.weight.has_value();
  pybind11::object out, residual_out;
  if (norms) out = fresh(given.residual, "out", call.out.emplace());
  if (overwrite) {
    residual_out = pybind11::reinterpret_borrow<pybind11::object>(given.residual);
    call.residual_out = call.residual;
  } else {
    residual_out = fresh(given.residual, "residual_out", call.residual_out);
  }
  run(call);
  if (!norms) return residual_out;
  PyObject* both = PyTuple_New(2);
  if (both == nullptr) throw pybind11::error_already_set();
  PyTuple_SET_ITEM(both, 0, out.release().ptr());
  PyTuple_SET_ITEM(both, 1, residual_out.release().ptr());
  return pybind11::reinterpret_steal<pybind11::object>(both);
}

pybind11::object steer_add_rms_norm(PyObject* const* given) {
  SteerNormCall call{};
  call.eps = number(given[3]);
  call.weight_offset = number(given[8]);
  const Given tensors = given_without_norm(given, given + 4);
  if (is_watched() || !tensors.read_into(call) ||
      !read(given[2], "weight", call.weight.emplace())) {
    return pybind11::none();
  }
  return run_into_fresh(tensors, call);
}

pybind11::object steer_add(PyObject* const* given) {
  SteerNormCall call{};
  const Given tensors = given_without_norm(given, given + 2);
  if (is_watched() || !tensors.read_into(call)) return pybind11::none();
  return run_into_fresh(tensors, call);
}

// A result has the residual's dtype; torch's own would have another for these.
bool promotes(const View& other, const View& residual) {
  return other.element != residual.element && residual.element != Element::float32;
}

pybind11::object call_op(const Given& tensors, PyObject* weight, PyObject* epsilon,
                         PyObject* weight_offset) {
  static PyObject* const op = kept(
      pybind11::module_::import("torch").attr("ops").attr("faststeer").attr("steer_add_rms_norm"),
      "default");
  PyObject* const arguments[] = {
      tensors.x,     tensors.residual,    weight,        epsilon,      tensors.vectors,
      tensors.index, tensors.coefficient, tensors.modes, weight_offset};
  PyObject* results = PyObject_Vectorcall(op, arguments, std::size(arguments), nullptr);
  if (results == nullptr) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(results);
}

pybind11::object steer_add_norm(PyObject* const* given) {
  PyObject *norm = given[0], *types = given[1];
  PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(norm));
  if (type != PyTuple_GetItem(types, 0) && type != PyTuple_GetItem(types, 1)) {
    return pybind11::none();
  }
  PyObject* weight = parameter(norm, weight_name);
  PyObject* epsilon = attribute(norm, given[2]);
  if (weight == nullptr || epsilon == nullptr || !runs_plainly(norm) ||
      answers_yes(is_grad_enabled)) {
    return pybind11::none();
  }
  SteerNormCall call{};
  call.eps = number(epsilon);
  call.weight_offset = number(given[3]);
  const Given tensors = given_without_norm(given + 4, items_of(given[6]));
  if (!tensors.read_into(call) || !read(weight, "weight", call.weight.emplace()) ||
      !(call.weight->device == call.residual.device) || promotes(*call.weight, call.residual) ||
      (call.x && promotes(*call.x, call.residual))) {
    return pybind11::none();
  }
  if (!suits_direct_call(call)) return call_op(tensors, weight, epsilon, given[3]);
  return run_into_fresh(tensors, call, given[7] == Py_True);
}

pybind11::object steer_add_rms_norm_out(PyObject* const* given) {
  SteerNormCall call{};
  call.eps = number(given[3]);
  call.weight_offset = number(given[8]);
  if (!given_without_norm(given, given + 4).read_into(call) ||
      !read(given[2], "weight", call.weight.emplace()) ||
      !read(given[9], "out", call.out.emplace()) ||
      !read(given[10], "residual_out", call.residual_out) || !on_cpu(call.residual) ||
      is_watched()) {
    return pybind11::bool_(false);
  }
  run(call);
  return pybind11::bool_(true);
}

pybind11::object watched(PyObject* const*) { return pybind11::bool_(is_watched()); }

pybind11::object run_plainly(PyObject* const* given) {
  return pybind11::bool_(runs_plainly(given[0]) && runs_plainly(given[1]));
}

// A Python function of `kArguments` arguments by position. pybind11's own calls take 0.5 us.
template <pybind11::object (*function)(PyObject* const*), int kArguments>
PyObject* from_python(PyObject*, PyObject* const* given, Py_ssize_t count) {
  if (count != kArguments) {
    PyErr_Format(PyExc_TypeError, "expected %d arguments, not %zd", kArguments, count);
    return nullptr;
  }
  try {
    return function(given).release().ptr();
  } catch (pybind11::error_already_set& error) {
    error.restore();
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

template <pybind11::object (*function)(PyObject* const*), int kArguments>
PyMethodDef method(const char* name) {
  _PyCFunctionFast call = from_python<function, kArguments>;
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(call)), METH_FASTCALL,
          nullptr};
}

PyMethodDef methods[] = {
    method<steer_add_rms_norm_out, 11>("steer_add_rms_norm_out"),
    method<steer_add_rms_norm, 9>("steer_add_rms_norm"),
    method<steer_add, 6>("steer_add"),
    method<steer_add_norm, 8>("steer_add_norm"),
    method<watched, 0>("is_watched"),
    method<run_plainly, 2>("run_plainly"),
};

}  // namespace

void add_direct_calls(pybind11::module_& module) {
  const pybind11::module_ torch = pybind11::module_::import("torch");
  const pybind11::object internals = torch.attr("_C");
  weight_name = PyUnicode_InternFromString("weight");
  empty_like = kept(torch, "empty_like");
  is_grad_enabled = kept(torch, "is_grad_enabled");
  watchers[0] = kept(internals, "_len_torch_dispatch_stack");
  watchers[1] = kept(internals, "_len_torch_function_stack");
  watchers[2] = kept(internals, "_get_tracing_state");
  watchers[3] = kept(internals.attr("_autograd"), "_profiler_enabled");
  find_module_state();
  find_tensors();
  for (PyMethodDef& each : methods) {
    PyObject* function = PyCFunction_New(&each, nullptr);
    if (function == nullptr) throw pybind11::error_already_set();
    module.add_object(each.ml_name, pybind11::reinterpret_steal<pybind11::object>(function));
  }
}

}  // namespace faststeer
