// Python's tensors as views, through the C table that DLPack 1.3 asks of every framework: it reads
// a tensor's facts in some 20 ns and is ABI-stable.
#pragma once

#include <Python.h>

#include <optional>

#include "common/tensor_view.h"

namespace faststeer {

// Finds torch's table. A torch that has none gets no views.
void find_tensors();

// Whether `view` could be filled. Not for subclasses, which may mean something else by their data,
// nor for what no kernel reads: that is left to the op, and to its words.
bool read(PyObject* object, const char* name, View& view);
bool read(PyObject* object, const char* name, std::optional<View>& view);  // None has no view

}  // namespace faststeer
