// Runs kernels on the CPU for tests: a request a line on stdin, an answer on stdout.
//
// A request is the words of one line, and for those that run kernels the bytes of its buffers. Each
// buffer is a heap block of exactly its size. A kernel runs twice, the second time backward, and
// the process ends with a message unless both leave the same bytes in all buffers; the answer is
// what was started, and those bytes.
#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <functional>
#include <iostream>
#include <limits>
#include <memory>
#include <vector>

#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "faulty.h"
#include "requests.h"

namespace faststeer {

std::string name_of(void* kernel) {
  Dl_info info{};
  if (dladdr(kernel, &info) == 0 || info.dli_sname == nullptr) fibres::fail("a kernel has no name");
  int status;
  const std::unique_ptr<char, decltype(&std::free)> name(
      abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status), &std::free);
  return name.get();
}

namespace {

void answer_steer_norm() {
  Buffers buffers;
  buffers.read_sizes();
  stand_in.multiprocessors = read<int>();
  stand_in.most_blocks = read<unsigned>();
  const auto dropped_barrier = read<int64_t>();
  SteerNormArgs args{};
  args.tokens = read<int64_t>();
  args.hidden = read<int64_t>();
  args.eps = read<float>();
  args.weight_offset = read<float>();
  args.stored = read<int64_t>();
  args.entries = read<int64_t>();
  args.tokens_per_setting = read<int64_t>();
  const RowsPlace residual, x, weight, vectors, out, residual_out;
  const Place index, coefficient, modes, inverse_rms;
  buffers.read_bytes();
  buffers.run_in_both_orders(dropped_barrier, [&] {
    args.residual = residual.in(buffers);
    args.x = x.in(buffers);
    args.weight = weight.in(buffers);
    args.vectors = vectors.in(buffers);
    args.out = out.in(buffers);
    args.residual_out = residual_out.in(buffers);
    args.index = index.in<int32_t>(buffers);
    args.coefficient = coefficient.in<float>(buffers);
    args.modes = modes.in<float>(buffers);
    args.inverse_rms = inverse_rms.in<float>(buffers);
    launch_steer_norm(args, 0, nullptr);
  });
  buffers.answer();
}

void answer_moments() {
  Buffers buffers;
  buffers.read_sizes();
  const auto dropped_barrier = read<int64_t>();
  stand_in.kernel_of_barrier = read<int64_t>();
  const auto scratch_bytes = read<int64_t>();
  MomentsArgs args{};
  args.tokens = read<int64_t>();
  args.hidden = read<int64_t>();
  args.groups = read<int64_t>();
  const RowsPlace x;
  const Place group, count, mean, m2;
  buffers.read_bytes();
  buffers.run_in_both_orders(dropped_barrier, [&] {
    args.x = x.in(buffers);
    args.group = group.in<int32_t>(buffers);
    args.count = count.in<int64_t>(buffers);
    args.mean = mean.in<double>(buffers);
    args.m2 = m2.in<double>(buffers);
    if (args.tokens == 0) return;
    const MomentsLaunch launch = plan_moments(args, scratch_bytes);
    const auto doubles = static_cast<size_t>(launch.scratch_doubles);
    const std::unique_ptr<double[]> scratch(new double[doubles]);
    std::fill_n(scratch.get(), doubles, std::numeric_limits<double>::quiet_NaN());
    launch_moments(args, launch, scratch.get(), nullptr);
  });
  stand_in.kernel_of_barrier = -1;
  buffers.answer();
}

void answer_backward() {
  Buffers buffers;
  buffers.read_sizes();
  const auto dropped_barrier = read<int64_t>();
  const auto wave_bytes = read<int64_t>();
  BackwardArgs args{};
  args.tokens = read<int64_t>();
  args.hidden = read<int64_t>();
  args.weight_offset = read<float>();
  args.stored = read<int64_t>();
  args.settings = read<int64_t>();
  args.entries = read<int64_t>();
  args.tokens_per_setting = args.settings > 0 ? args.tokens / args.settings : 0;
  const RowsPlace grad_out, grad_residual, h, weight, vectors;
  const RowsPlace grad_h, grad_x, grad_weight, grad_vectors;
  const Place inverse_rms, index, coefficient, grad_coefficient;
  buffers.read_bytes();
  buffers.run_in_both_orders(dropped_barrier, [&] {
    args.grad_out = grad_out.in(buffers);
    args.grad_residual = grad_residual.in(buffers);
    args.h = h.in(buffers);
    args.weight = weight.in(buffers);
    args.vectors = vectors.in(buffers);
    args.grad_h = grad_h.in(buffers);
    args.grad_x = grad_x.in(buffers);
    args.grad_weight = grad_weight.in(buffers);
    args.grad_vectors = grad_vectors.in(buffers);
    args.inverse_rms = inverse_rms.in<float>(buffers);
    args.index = index.in<int32_t>(buffers);
    args.coefficient = coefficient.in<float>(buffers);
    args.grad_coefficient = grad_coefficient.in<float>(buffers);
    const BackwardLaunch launch = plan_backward(args, wave_bytes);
    // As aligned as torch's allocator gives it; all bits set are NaN.
    const auto bytes = static_cast<size_t>(launch.scratch_bytes);
    const size_t room = (bytes + 511) / 512 * 512;
    const std::unique_ptr<char, decltype(&std::free)> scratch(
        static_cast<char*>(std::aligned_alloc(512, room)), &std::free);
    std::fill_n(scratch.get(), bytes, static_cast<char>(-1));
    __asan_poison_memory_region(scratch.get() + bytes, room - bytes);
    launch_backward(args, launch, scratch.get(), nullptr);
    __asan_unpoison_memory_region(scratch.get() + bytes, room - bytes);
  });
  buffers.answer();
}

void answer_backward_plan() {
  BackwardArgs args{};
  args.tokens = read<int64_t>();
  args.hidden = read<int64_t>();
  args.stored = read<int64_t>();
  args.settings = read<int64_t>();
  args.entries = read<int64_t>();
  args.tokens_per_setting = args.settings > 0 ? args.tokens / args.settings : 0;
  const auto dtype = static_cast<DType>(read<int32_t>());
  const Rows rows{reinterpret_cast<void*>(uintptr_t{4096}), args.hidden, dtype};
  args.grad_out = args.h = args.weight = args.grad_h = args.grad_weight = rows;
  float coefficient;
  if (args.entries > 0) {
    args.vectors = args.grad_vectors = rows;
    args.grad_coefficient = &coefficient;
  }
  const BackwardLaunch launch = plan_backward(args);
  std::cout << launch.packed << ' ' << launch.threads << ' ' << launch.shared_bytes << ' '
            << launch.blocks << ' ' << launch.rows_per_block << ' ' << launch.parts << ' '
            << launch.settings_per_block << ' ' << launch.segments << ' ' << launch.blocks_per_wave
            << ' ' << launch.splits << ' ' << launch.scratch_bytes << '\n';
}

void answer_faulty() {
  Buffers buffers;
  buffers.read_sizes();
  const auto fault = read<std::string>();
  buffers.read_bytes();
  buffers.run_in_both_orders(
      -1, [&] { start_faulty(fault, reinterpret_cast<float*>(buffers.at(0, 0))); });
  buffers.answer();
}

void answer_steer_norm_plan() {
  SteerNormProblem problem{};
  problem.tokens = read<int64_t>();
  problem.hidden = read<int64_t>();
  problem.element_size = read<int>();
  problem.entries = read<int64_t>();
  problem.stored = read<int64_t>();
  problem.tokens_per_setting = read<int64_t>();
  problem.modes = read<bool>();
  problem.aligned = read<bool>();
  problem.gpu.multiprocessors = read<int>();
  problem.gpu.threads = read<int>();
  problem.gpu.shared_bytes = read<int>();
  const SteerNormLaunch launch = plan_steer_norm(problem);
  std::cout << launch.packed << ' ' << static_cast<int>(launch.steering) << ' ' << launch.packs
            << ' ' << launch.threads << ' ' << launch.blocks << ' ' << launch.rows_per_block << ' '
            << launch.shared_bytes << '\n';
}

void answer_moments_plan() {
  MomentsArgs args{};
  args.tokens = read<int64_t>();
  args.hidden = read<int64_t>();
  args.groups = read<int64_t>();
  args.x.data = reinterpret_cast<void*>(read<uintptr_t>());
  args.x.stride = read<int64_t>();
  args.x.dtype = static_cast<DType>(read<int32_t>());
  const MomentsLaunch launch = plan_moments(args, read<int64_t>());
  std::cout << launch.packed << ' ' << launch.rows_per_split << ' ' << launch.splits << ' '
            << launch.column_tiles << ' ' << launch.splits_per_step << ' ' << launch.groups_per_step
            << ' ' << launch.scratch_doubles << '\n';
}

}  // namespace
}  // namespace faststeer

int main() {
  std::string request;
  while (std::cin >> request) {
    if (request == "steer_norm") faststeer::answer_steer_norm();
    if (request == "moments") faststeer::answer_moments();
    if (request == "backward") faststeer::answer_backward();
    if (request == "plan_backward") faststeer::answer_backward_plan();
    if (request == "faulty") faststeer::answer_faulty();
    if (request == "plan_steer_norm") faststeer::answer_steer_norm_plan();
    if (request == "plan_moments") faststeer::answer_moments_plan();
    std::cout.flush();
  }
}
