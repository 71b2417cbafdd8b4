// Dynamic binarisation: each number of x a bit, 1 with probability x * x_scale, drawn by a noise key.
#include "ops/launch.h"
#include "ops/memory.h"
#include "ops/register.h"
#include "ops/rows.h"

namespace aevb {
namespace {

using at::Tensor;

Tensor forward(const Tensor& x, const Tensor& key, double x_scale) {
  check_data("x", x);
  check_key(key, x, x.dim(), "x");
  Tensor bits = empty(x.sym_sizes(), x.options().dtype(at::kByte));
  if (x.is_meta()) return bits;
  // Rows are what has a key of its own; with one key they are there only so that work can be shared out.
  const int64_t row_dims = key.dim() > 1 ? key.dim() - 1 : std::min<int64_t>(x.dim(), 1);
  Tensor probabilities = x;
  const Tensor keys = key.contiguous();
  BinarizeCall call = {};
  call.x_scale = x_scale;
  set_shape(call, x, x.dim() - row_dims);
  call.x = describe(probabilities, x.sizes());
  call.key = keys.const_data_ptr<int64_t>();
  call.key_rows = call.rows / std::max<int64_t>(keys.numel() / 2, 1);
  call.bits = bits.mutable_data_ptr<uint8_t>();
  binarize(call, x.device());
  return bits;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(aevb_ext, m) { m.def("binarize(Tensor x, Tensor key, float x_scale) -> Tensor"); }
AEVB_REGISTER("binarize", forward)

}  // namespace aevb
