// Gradients of rows that lie in the packs of a block: each operand is read once, in one load phase
// per row, and each result written once.
//
// With y = h * r and q = grad_out * weight the gradient of h is grad_residual + r * (q - y * m),
// where m = mean(q * y) takes the only barrier of a row. A thread keeps the sums of its columns
// over the block's rows, for the weight, in shared memory that no other thread touches, and over a
// segment's, for its entries, in registers.
#pragma once

#include "cuda/backward_scratch.cuh"

namespace faststeer {

// R: the dtype of the gradients, of h and the weight. X: that of grad_x, where there is one.
template <class R, class X, bool kNormed>
struct BackwardRows {
  static constexpr int kWidth = kPackWidth<R>;

  const BackwardArgs& args;
  const BackwardLaunch& launch;
  void* memory;  // of scratch, whose parts are found when needed: they would take eight registers
  KeptSum<kWidth> weight_sums;  // not in registers: with these, half types spilled
  float (&dots)[2][kDots][kWarp];
  int turn = 0;
  Pack<R, kWidth> weight;
  float segment_sum[kWidth] = {};

  static __device__ int column() { return static_cast<int>(threadIdx.x) * kWidth; }
  __device__ bool in_row() const { return column() < args.hidden; }

  __device__ void start() {
    if (!kNormed) return;
    const float zeros[kWidth] = {};
    weight_sums.set(0, zeros);
    if (in_row()) weight = load<Reused, kWidth>(row_of<const R>(args.weight, 0) + column());
  }

  // `sums` as in block_sum.
  __device__ void run(int64_t n, float (&sums)[kWarp]) {
    Pack<R, kWidth> out, own, beside;
    float inverse_rms = 0.0f;
    if constexpr (kNormed) inverse_rms = __ldg(args.inverse_rms + n);
    if (in_row()) {
      if constexpr (kNormed) {
        out = load<Streamed, kWidth>(row_of<const R>(args.grad_out, n) + column());
        own = load<Streamed, kWidth>(row_of<const R>(args.h, n) + column());
      }
      if (args.grad_residual.data != nullptr) {
        beside = load<Streamed, kWidth>(row_of<const R>(args.grad_residual, n) + column());
      }
    }
    float value[kWidth] = {};
    if constexpr (kNormed) through_norm(out, own, inverse_rms, value, sums);
    if (!in_row()) return;
    float passed[kWidth];
    widen(beside, passed);  // zeros where there is none
#pragma unroll
    for (int j = 0; j < kWidth; ++j) value[j] += passed[j];
    if (args.grad_h.data != nullptr) {
      store(row_of<R>(args.grad_h, n) + column(), narrow<R>(value));
    }
    if (args.grad_x.data != nullptr) {
      store(row_of<X>(args.grad_x, n) + column(), narrow<X>(value));
    }
#pragma unroll
    for (int j = 0; j < kWidth; ++j) segment_sum[j] += value[j];
  }

  __device__ void finish_segment(int64_t number) {
    const Segment segment(args, launch, {memory, args, launch}, number);
    if (segment.unknown) {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) segment_sum[j] = __uint_as_float(0x7fc00000u);
    }
    if (launch.vectors && in_row()) store_floats(segment.sum + column(), segment_sum);
    if (segment.dots != nullptr) {
      dot_with_vectors(args, segment, dots, turn, [&](int32_t id) {
        if (args.vectors.dtype == DType::float32) return dot_with<float>(id);
        return dot_with<R>(id);
      });
    }
#pragma unroll
    for (int j = 0; j < kWidth; ++j) segment_sum[j] = 0.0f;
  }

  __device__ void finish_block(int64_t block) {
    if (!kNormed || args.grad_weight.data == nullptr || !in_row()) return;
    const BackwardScratch scratch(memory, args, launch);
    float weight_sum[kWidth];
    weight_sums.get(0, weight_sum);
    store_floats(scratch.weight + block * launch.stride + column(), weight_sum);
  }

 private:
  __device__ void through_norm(const Pack<R, kWidth>& out, const Pack<R, kWidth>& own,
                               float inverse_rms, float (&value)[kWidth], float (&sums)[kWarp]) {
    float q[kWidth], y[kWidth], factor[kWidth], weight_sum[kWidth];
    widen(out, q);
    widen(own, y);
    widen(weight, factor);
    weight_sums.get(0, weight_sum);
    float dot = 0.0f;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      y[j] *= inverse_rms;
      weight_sum[j] = fmaf(q[j], y[j], weight_sum[j]);
      q[j] *= args.weight_offset + factor[j];
      dot = fmaf(q[j], y[j], dot);
    }
    weight_sums.set(0, weight_sum);
    const float mean = block_sum(dot, sums) * launch.share;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) value[j] = inverse_rms * fmaf(-y[j], mean, q[j]);
  }

  template <class V>
  __device__ float dot_with(int32_t id) const {
    float dot = 0.0f;
    if (!in_row()) return dot;
    float values[kWidth];
    widen(load<Reused, kWidth>(row_of<const V>(args.vectors, id) + column()), values);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) dot = fmaf(values[j], segment_sum[j], dot);
    return dot;
  }

  static __device__ void store_floats(float* to, const float (&values)[kWidth]) {
#pragma unroll
    for (int j = 0; j < kWidth; j += 4) {
      *reinterpret_cast<float4*>(to + j) =
          make_float4(values[j], values[j + 1], values[j + 2], values[j + 3]);
    }
  }
};

// One block a multiprocessor is enough: on sm_100 nvcc would else take 32 registers for two, and
// spill.
template <class R, class X, bool kNormed>
__global__ void __launch_bounds__(kMaxThreads, 1)
    backward_packed(const __grid_constant__ BackwardArgs args,
                    const __grid_constant__ BackwardLaunch launch, void* memory) {
  __shared__ float sums[2][kWarp];
  __shared__ float dots[2][kDots][kWarp];
  BackwardRows<R, X, kNormed> rows{args, launch, memory, {dynamic_shared<float4>()}, dots};
  rows.start();
  const int64_t block = launch.first_block + blockIdx.x;
  const BlockRows range(args, launch, block);
  const bool segments = launch.vectors || args.grad_coefficient != nullptr;
  int64_t segment = range.segment;
#pragma unroll 1
  for (int64_t n = range.begin; n < range.end; ++n) {
    rows.run(n, sums[n % 2]);
    if (segments && args.entries > 0 && ends_segment(args, launch, n, range.end)) {
      rows.finish_segment(segment++);
    }
  }
  rows.finish_block(block);
}

}  // namespace faststeer
