// Packed binary data to a byte for each bit.
#include "ops/check.h"
#include "ops/launch.h"
#include "ops/memory.h"
#include "ops/register.h"

namespace aevb {
namespace {

using at::Tensor;

Tensor forward(const Tensor& packed, c10::SymInt n) {
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
  // Rows that end with their last byte follow each other as one.
  if (bits.numel() != 8 * bytes.numel()) {
    call.width = bytes.size(-1);
    call.rows = bytes.numel() / call.width;
    call.count = bits.size(-1);
  }
  unpack_bits(call, packed.device());
  return bits;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(aevb_ext, m) { m.def("unpack_bits(Tensor packed, SymInt n) -> Tensor"); }
AEVB_REGISTER("unpack_bits", forward)

}  // namespace aevb
