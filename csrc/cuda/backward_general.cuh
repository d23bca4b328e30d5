// Gradients of rows of any size, stride, alignment and mix of dtypes, element by element. Sums over
// rows are kept in scratch, of which a thread reads only what it wrote.
#pragma once

#include "cuda/backward_scratch.cuh"

namespace faststeer {

template <class T>
__device__ inline void store_element(const Rows& rows, int64_t n, int64_t j, float value) {
  row_of<T>(rows, n)[j] = narrow<T>(value);
}

__device__ inline void store_element(const Rows& rows, int64_t n, int64_t j, float value) {
  switch (rows.dtype) {
    case DType::bfloat16:
      return store_element<__nv_bfloat16>(rows, n, j, value);
    case DType::float16:
      return store_element<__half>(rows, n, j, value);
    default:
      return store_element<float>(rows, n, j, value);
  }
}

// The mean of q * y of row n, as in backward_packed.cuh. `weight_sum` is none where not wanted, and
// starts with the first row.
__device__ inline float mean_through_norm(const BackwardArgs& args, const BackwardLaunch& launch,
                                          int64_t n, float inverse_rms, float* weight_sum,
                                          bool first_row, float (&sums)[kWarp]) {
  float dot = 0.0f;
  each_chunk(args.hidden, [&](int64_t first) {
    float out[kChunkColumns], y[kChunkColumns], weight[kChunkColumns];
    load_chunk(args.grad_out, n, first, args.hidden, out);
    load_chunk(args.h, n, first, args.hidden, y);
    load_chunk(args.weight, 0, first, args.hidden, weight);
    each_of_chunk(first, args.hidden, [&](int64_t j, int c) {
      y[c] *= inverse_rms;
      dot = fmaf(out[c] * (args.weight_offset + weight[c]), y[c], dot);
      if (weight_sum == nullptr) return;
      weight_sum[j] = fmaf(out[c], y[c], first_row ? 0.0f : weight_sum[j]);
    });
  });
  return block_sum(dot, sums) * launch.share;
}

// The gradient of h of a chunk of row n.
__device__ inline void gradient_of_chunk(const BackwardArgs& args, int64_t n, int64_t first,
                                         float inverse_rms, float mean,
                                         float (&value)[kChunkColumns]) {
  float other[kChunkColumns];
  if (args.grad_out.data != nullptr) {
    load_chunk(args.grad_out, n, first, args.hidden, value);
    load_chunk(args.weight, 0, first, args.hidden, other);
#pragma unroll
    for (int c = 0; c < kChunkColumns; ++c) value[c] *= args.weight_offset + other[c];
    load_chunk(args.h, n, first, args.hidden, other);
#pragma unroll
    for (int c = 0; c < kChunkColumns; ++c) {
      value[c] = inverse_rms * fmaf(-(other[c] * inverse_rms), mean, value[c]);
    }
  }
  if (args.grad_residual.data == nullptr) return;
  load_chunk(args.grad_residual, n, first, args.hidden, other);
#pragma unroll
  for (int c = 0; c < kChunkColumns; ++c) value[c] += other[c];
}

// Row n. `segment_sum` is none where not wanted, and starts with the first row.
__device__ inline void backward_elements(const BackwardArgs& args, int64_t n, float inverse_rms,
                                         float mean, float* segment_sum, bool first_row) {
  each_chunk(args.hidden, [&](int64_t first) {
    float value[kChunkColumns] = {};
    gradient_of_chunk(args, n, first, inverse_rms, mean, value);
    each_of_chunk(first, args.hidden, [&](int64_t j, int c) {
      if (args.grad_h.data != nullptr) store_element(args.grad_h, n, j, value[c]);
      if (args.grad_x.data != nullptr) store_element(args.grad_x, n, j, value[c]);
      if (segment_sum != nullptr) {
        segment_sum[j] = value[c] + (first_row ? 0.0f : segment_sum[j]);
      }
    });
  });
}

__global__ void __launch_bounds__(kMaxThreads)
    backward_general(const __grid_constant__ BackwardArgs args,
                     const __grid_constant__ BackwardLaunch launch, void* memory) {
  __shared__ float sums[2][kWarp];
  __shared__ float dots[2][kDots][kWarp];
  const BackwardScratch scratch(memory, args, launch);
  const int64_t block = launch.first_block + blockIdx.x;
  const BlockRows range(args, launch, block);
  const bool segments = args.entries > 0 && (launch.vectors || args.grad_coefficient != nullptr);
  float* weight_sum =
      args.grad_weight.data == nullptr ? nullptr : scratch.weight + block * launch.stride;
  int64_t number = range.segment;
  int turn = 0;
  bool first_of_segment = true;
#pragma unroll 1
  for (int64_t n = range.begin; n < range.end; ++n) {
    float inverse_rms = 0.0f, mean = 0.0f;
    if (args.grad_out.data != nullptr) {
      inverse_rms = __ldg(args.inverse_rms + n);
      mean = mean_through_norm(args, launch, n, inverse_rms, weight_sum, n == range.begin,
                               sums[n % 2]);
    }
    const int64_t in_wave = number - launch.first_block * launch.settings_per_block;
    float* segment_sum = segments ? scratch.segments + in_wave * launch.stride : nullptr;
    backward_elements(args, n, inverse_rms, mean, segment_sum, first_of_segment);
    first_of_segment = segments && ends_segment(args, launch, n, range.end);
    if (!first_of_segment) continue;
    const Segment segment(args, launch, scratch, number++);
    if (segment.unknown) {
      for (int64_t j = threadIdx.x; j < args.hidden; j += blockDim.x) {
        segment.sum[j] = __uint_as_float(0x7fc00000u);
      }
    }
    if (segment.dots == nullptr) continue;
    dot_with_vectors(args, segment, dots, turn, [&](int32_t id) {
      float dot = 0.0f;
      each_chunk(args.hidden, [&](int64_t first) {
        float vector[kChunkColumns];
        load_chunk(args.vectors, id, first, args.hidden, vector);
        each_of_chunk(first, args.hidden,
                      [&](int64_t j, int c) { dot = fmaf(vector[c], segment.sum[j], dot); });
      });
      return dot;
    });
  }
}

}  // namespace faststeer
