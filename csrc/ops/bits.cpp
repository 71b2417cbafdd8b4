// Binary data: drawing bits from their probabilities, and unpacking bits from bytes.
#include "ops/common/launch.h"
#include "ops/common/memory.h"
#include "ops/common/register.h"
#include "ops/common/rows.h"

namespace aevb {
namespace {

using at::Tensor;

// Dynamic binarisation: each element of x becomes 1 with probability x * x_scale, drawn by a noise key.
Tensor draw(const Tensor& x, const Tensor& key, double x_scale) {
  check_data("x", x);
  check_key(key, x, x.dim(), "x");
  Result bits(empty_elementwise(x.sym_sizes(), x, x.options().dtype(at::kByte)));
  if (x.is_meta()) return bits.finish();
  // A row is the part of x that has its own key; with a single key, rows only serve to distribute the work.
  const int64_t row_dims = key.dim() > 1 ? key.dim() - 1 : std::min<int64_t>(x.dim(), 1);
  const Order order = runs_cuda(x.device()) ? Order() : loop_order(x, key.dim() > 1 ? x.dim() - row_dims : x.dim());
  Tensor probabilities = x;
  const Tensor keys = key.contiguous();
  BinarizeCall call = {};
  call.x_scale = x_scale;
  set_shape(call, x, x.dim() - row_dims);
  call.x = describe(probabilities, x.sizes(), order);
  call.logical = logical_indices(x.sizes(), order);
  call.key = keys.const_data_ptr<int64_t>();
  call.key_rows = call.rows / std::max<int64_t>(keys.numel() / 2, 1);
  call.bits = static_cast<uint8_t*>(bits.output(order, call.event, /*any_layout=*/false).data);
  binarize(call, x.device());
  return bits.finish();
}

// Unpacks bits to one byte each.
Tensor unpack(const Tensor& packed, c10::SymInt n) {
  TORCH_CHECK_TYPE(packed.scalar_type() == at::kByte, "packed must be uint8, got ", packed.scalar_type());
  TORCH_CHECK_VALUE(n >= 0, "n must be at least 0, got ", n);
  TORCH_CHECK_VALUE(packed.dim() > 0 && packed.sym_size(-1) == (n + 7) / 8, "packed must have shape [*batch, ",
                    (n + 7) / 8, "] for n = ", n, " bits, got ", packed.sym_sizes());
  c10::SymDimVector sizes(packed.sym_sizes().begin(), packed.sym_sizes().end());
  sizes.back() = n;
  Tensor bits = empty(sizes, packed.options());
  if (packed.is_meta() || packed.numel() == 0) return bits;
  const Tensor bytes = packed.contiguous();
  UnpackCall call = {bytes.const_data_ptr<uint8_t>(), bits.mutable_data_ptr<uint8_t>(), 1, bytes.numel(), bits.numel()};
  // If no row has unused bits, all rows are unpacked as one.
  if (bits.numel() != 8 * bytes.numel()) {
    call.width = bytes.size(-1);
    call.rows = bytes.numel() / call.width;
    call.count = bits.size(-1);
  }
  unpack_bits(call, packed.device());
  return bits;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(aevb_ext, m) {
  m.def("binarize(Tensor x, Tensor key, float x_scale) -> Tensor");
  m.def("unpack_bits(Tensor packed, SymInt n) -> Tensor");
}
AEVB_REGISTER("binarize", draw)
AEVB_REGISTER("unpack_bits", unpack)

}  // namespace aevb
