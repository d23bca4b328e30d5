// The Python module faststeer._C. Importing it registers the ops; its functions report how this
// build was made and what runs here.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/stable/library.h>

#include "bindings/direct_call.h"
#include "cpu/dispatch.h"

PYBIND11_MODULE(_C, m) {
  m.doc() = "faststeer's compiled ops and the facts of this build";
  faststeer::add_direct_calls(m);
  m.def("isa", [] { return std::string(faststeer::current_isa().name); });
  m.def("available_isas", &faststeer::available_isas);
  m.def("build_facts", [] {
    pybind11::dict facts;
    facts["compiler"] = FASTSTEER_COMPILER;
    facts["built_with_torch"] = FASTSTEER_TORCH_VERSION;
    facts["cuda_built"] = FASTSTEER_CUDA_BUILT;    // by which nvcc and for what, or nothing
    facts["cuda_absent"] = FASTSTEER_CUDA_ABSENT;  // why it was not built, or nothing
    facts["torch_abi_target"] = std::to_string((TORCH_FEATURE_VERSION >> 56) & 0xff) + "." +
                                std::to_string((TORCH_FEATURE_VERSION >> 48) & 0xff);
    return facts;
  });
}
