#include "bindings/entry_tables.h"

#include <memory>
#include <mutex>
#include <shared_mutex>
#include <vector>

namespace faststeer {
namespace {

constexpr int64_t kMostTables = 1 << 16;

// The tensors own what the views borrow.
struct EntryTable {
  Tensor tensors[4];
  View vectors, index, coefficient, modes;
};

// Calls may come from other threads than those that set tables.
std::shared_mutex guard;
std::vector<std::shared_ptr<const EntryTable>> tables;

std::shared_ptr<const EntryTable> find(int64_t table) {
  const std::shared_lock lock(guard);
  std::shared_ptr<const EntryTable> found;
  if (table >= 0 && table < static_cast<int64_t>(tables.size())) found = tables[table];
  require(found != nullptr, "there is no table ", table, " of entries");
  return found;
}

void put(int64_t table, std::shared_ptr<const EntryTable> entries) {
  require(table >= 0 && table < kMostTables, "the number of a table of entries is ", table,
          "; expected 0 to ", kMostTables - 1);
  const std::unique_lock lock(guard);
  if (table >= static_cast<int64_t>(tables.size())) tables.resize(table + 1);
  tables[table] = std::move(entries);
}

}  // namespace

void set_entry_table(int64_t table, const Tensor& vectors, const Tensor& index,
                     const Tensor& coefficient, const Tensor& modes) {
  put(table, std::make_shared<const EntryTable>(EntryTable{{vectors, index, coefficient, modes},
                                                           view_of(vectors, "vectors"),
                                                           view_of(index, "index"),
                                                           view_of(coefficient, "coefficient"),
                                                           view_of(modes, "modes")}));
}

void drop_entry_table(const Tensor&, int64_t table) { put(table, nullptr); }

SteerNormArgs args_by_table(const Tensor& x, const Tensor& residual, const Tensor& weight,
                            double eps, double weight_offset, int64_t table) {
  const std::shared_ptr<const EntryTable> found = find(table);
  SteerNormCall call{};
  call.residual = call.residual_out = view_of(residual, "residual");
  call.residual_out.name = "residual_out";
  call.x = view_of(x, "x");
  call.out = call.x;
  call.out->name = "out";
  call.weight = view_of(weight, "weight");
  call.eps = eps;
  call.weight_offset = weight_offset;
  call.vectors = found->vectors;
  call.index = found->index;
  call.coefficient = found->coefficient;
  call.modes = found->modes;
  const int64_t hidden = call.residual.dim > 0 ? call.residual.last() : 0;
  const int64_t tokens = hidden > 0 ? call.residual.numel() / hidden : 0;
  require(found->index.dim == 2 && tokens <= found->index.sizes[0], "table ", table,
          " of entries has shape ", found->index.shape(), ", too few lines for ", tokens,
          " tokens");
  const int64_t sizes[] = {tokens, found->index.sizes[1]};
  call.index->sizes = call.coefficient->sizes = sizes;
  return checked(call);
}

}  // namespace faststeer
