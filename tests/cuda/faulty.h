// Kernels with one mistake each, to prove that mistakes are seen.
#pragma once

#include <string>

void start_faulty(const std::string& fault, float* memory);
