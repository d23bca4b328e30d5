// Requests of the driver: the words of a line on stdin, and buffers of bytes behind it.
#pragma once

#include <sanitizer/asan_interface.h>

#include <functional>
#include <iostream>
#include <limits>
#include <memory>
#include <vector>

#include "cuda/kernels.h"
#include "faulty.h"

namespace faststeer {
namespace {

template <class T>
T read() {
  T value{};
  if (!(std::cin >> value)) fibres::fail("a request that is not complete");
  return value;
}

class Buffers {
 public:
  // The sizes are words of the request; the bytes follow its line.
  void read_sizes() {
    sizes_.resize(read<size_t>());
    for (size_t& size : sizes_) size = read<size_t>();
  }
  void read_bytes() {
    std::cin.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    for (size_t size : sizes_) {
      given_.emplace_back(size);
      std::cin.read(given_.back().data(), static_cast<std::streamsize>(size));
    }
  }
  char* at(size_t buffer, int64_t offset) const { return used_.at(buffer).get() + offset; }

  void run_in_both_orders(int64_t dropped_barrier, const std::function<void()>& run) {
    for (const bool backward : {false, true}) {
      used_.clear();
      fibres::shared_with_other_kernels.clear();
      for (const auto& bytes : given_) {
        used_.emplace_back(new char[bytes.size()]);
        std::copy(bytes.begin(), bytes.end(), used_.back().get());
        fibres::shared_with_other_kernels.emplace_back(used_.back().get(), bytes.size());
      }
      fibres::schedule = {backward, dropped_barrier};
      stand_in.started.clear();
      run();
      if (!backward) {
        forward_ = std::move(used_);
        continue;
      }
      for (size_t i = 0; i < used_.size(); ++i) {
        if (!std::equal(used_[i].get(), used_[i].get() + sizes_[i], forward_[i].get())) {
          fibres::fail("race: the results depend on the order of threads");
        }
      }
    }
  }
  void answer() const {
    std::cout << stand_in.started.size() << '\n';
    for (const std::string& line : stand_in.started) std::cout << line << '\n';
    for (size_t i = 0; i < used_.size(); ++i) {
      std::cout.write(used_[i].get(), static_cast<std::streamsize>(sizes_[i]));
    }
  }

 private:
  using Memory = std::vector<std::unique_ptr<char[]>>;
  std::vector<size_t> sizes_;
  std::vector<std::vector<char>> given_;
  Memory used_, forward_;
};

// Where an operand lies: its buffer, or -1 for none, and the bytes before it.
struct Place {
  int64_t buffer = read<int64_t>();
  int64_t offset = read<int64_t>();

  template <class T = void>
  T* in(const Buffers& buffers) const {
    if (buffer < 0) return nullptr;
    return reinterpret_cast<T*>(buffers.at(static_cast<size_t>(buffer), offset));
  }
};

struct RowsPlace {
  Place place;
  int64_t stride = read<int64_t>();
  DType dtype = static_cast<DType>(read<int32_t>());

  Rows in(const Buffers& buffers) const { return {place.in(buffers), stride, dtype}; }
};

}  // namespace
}  // namespace faststeer
