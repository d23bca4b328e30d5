#include "bindings/stable_tensors.h"

namespace faststeer {
namespace {

constexpr int64_t kMaxDim = 8;

Element element_of(const Tensor& tensor) {
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &dtype));
  if (dtype == aoti_torch_dtype_float32()) return Element::float32;
  if (dtype == aoti_torch_dtype_bfloat16()) return Element::bfloat16;
  if (dtype == aoti_torch_dtype_float16()) return Element::float16;
  if (dtype == aoti_torch_dtype_float64()) return Element::float64;
  if (dtype == aoti_torch_dtype_int32()) return Element::int32;
  if (dtype == aoti_torch_dtype_int64()) return Element::int64;
  return Element::other;
}

Device device_of(const Tensor& tensor) {
  int32_t type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &type));
  if (type == aoti_torch_device_type_cpu()) return {Device::Type::cpu, 0};
  if (type != aoti_torch_device_type_cuda()) return {Device::Type::other, 0};
  int32_t index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(tensor.get(), &index));
  return {Device::Type::cuda, index};
}

std::optional<Input> input(const MaybeTensor& tensor, const char* name) {
  if (!tensor.has_value()) return std::nullopt;
  return Input(*tensor, name);
}

std::optional<View> view(const std::optional<Input>& input) {
  if (!input.has_value()) return std::nullopt;
  return input->view;
}

}  // namespace

View view_of(const Tensor& tensor, const char* name) {
  require(tensor.defined(), name, " is None; expected a tensor");
  return {name,         tensor.data_ptr(),  tensor.sizes().data(), tensor.strides().data(),
          tensor.dim(), element_of(tensor), device_of(tensor)};
}

Tensor empty_dense(const Tensor& like, const int64_t* sizes, int64_t dim, int32_t dtype) {
  require(dim <= kMaxDim, "a tensor has ", dim, " dimensions; at most 8 are supported");
  int64_t strides[kMaxDim];
  int64_t step = 1;
  for (int64_t d = dim - 1; d >= 0; --d) {
    strides[d] = step;
    step *= sizes[d] > 0 ? sizes[d] : 1;
  }
  int32_t device_type, device_index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dim, sizes, strides, dtype, device_type, device_index, &handle));
  return Tensor(handle);
}

Tensor empty_dense_like(const Tensor& like) {
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  return empty_dense(like, like.sizes().data(), like.dim(), dtype);
}

Tensor empty_inverse_rms(const Tensor& residual) {
  int64_t tokens = 1;
  for (int64_t d = 0; d + 1 < residual.dim(); ++d) tokens *= residual.sizes()[d];
  return empty_dense(residual, &tokens, 1, aoti_torch_dtype_float32());
}

Input::Input(const Tensor& given, const char* name) : tensor(given), view(view_of(given, name)) {
  if (view.dim > 0 && view.row_stride() < 0) {
    tensor = torch::stable::contiguous(given);
    view = view_of(tensor, name);
  }
}

SteerNormInputs::SteerNormInputs(const MaybeTensor& x, const Tensor& residual, const Tensor* weight,
                                 const Entries& entries)
    : residual_(residual, "residual"),
      x_(input(x, "x")),
      vectors_(input(entries.vectors, "vectors")),
      index_(input(entries.index, "index")),
      coefficient_(input(entries.coefficient, "coefficient")),
      modes_(input(entries.modes, "modes")) {
  if (weight != nullptr) weight_.emplace(*weight, "weight");
}

SteerNormArgs SteerNormInputs::into(const Tensor& residual_out, const Tensor* out, double eps,
                                    double weight_offset, const Tensor* inverse_rms) const {
  SteerNormCall call{residual_.view,
                     view_of(residual_out, "residual_out"),
                     view(x_),
                     view(weight_),
                     std::nullopt,
                     view(vectors_),
                     view(index_),
                     view(coefficient_),
                     view(modes_),
                     std::nullopt,
                     eps,
                     weight_offset};
  if (out != nullptr) call.out = view_of(*out, "out");
  if (inverse_rms != nullptr) call.inverse_rms = view_of(*inverse_rms, "inverse_rms");
  return checked(call);
}

MomentsInputs::MomentsInputs(const Tensor& x, const MaybeTensor& group) : x_(x, "x") {
  if (group.has_value()) group_ = torch::stable::contiguous(*group);
}

MomentsArgs MomentsInputs::into(const Tensor& count, const Tensor& mean, const Tensor& m2) const {
  MomentsCall call{x_.view, view_of(count, "count"), view_of(mean, "mean"), view_of(m2, "m2"), {}};
  int64_t entries;
  constexpr int64_t kDense = 1;
  if (group_.has_value()) {
    call.group = view_of(*group_, "group");  // of any shape: read as [N]
    entries = group_->numel();
    call.group->sizes = &entries;
    call.group->strides = &kDense;
    call.group->dim = 1;
  }
  return checked(call);
}

}  // namespace faststeer
