#include "ops/common/check.h"

namespace aevb {
namespace {

template <class Value, size_t n>
Value parse(const char* argument, std::string_view given, const std::pair<const char*, Value> (&known)[n],
            const char* expected) {
  for (const auto& [name, value] : known)
    if (given == name) return value;
  TORCH_CHECK_VALUE(false, argument, " must be ", expected, ", got \"", given, "\"");
}

}  // namespace

Reduction parse_reduction(std::string_view name) {
  return parse<Reduction>(
      "reduction", name,
      {{"sample", Reduction::sample}, {"mean", Reduction::mean}, {"sum", Reduction::sum}, {"none", Reduction::none}},
      "\"none\", \"sample\", \"sum\" or \"mean\"");
}

Spread parse_spread(std::string_view name) {
  return parse<Spread>(
      "spread", name,
      {{"logvar", Spread::logvar}, {"log_std", Spread::log_std}, {"std", Spread::std}, {"var", Spread::var}},
      "\"logvar\", \"log_std\", \"std\" or \"var\"");
}

bool is_floating(at::ScalarType type) {
  return type == at::kDouble || type == at::kFloat || type == at::kBFloat16 || type == at::kHalf;
}

void check_floating(const char* name, const at::Tensor& t) {
  TORCH_CHECK_TYPE(is_floating(t.scalar_type()), name, " must be float64, float32, bfloat16 or float16, got ",
                   t.scalar_type());
}

void check_data(const char* name, const at::Tensor& t) {
  TORCH_CHECK_TYPE(is_floating(t.scalar_type()) || t.scalar_type() == at::kByte || t.scalar_type() == at::kBool, name,
                   " must be float64, float32, bfloat16, float16, uint8 or bool, got ", t.scalar_type());
}

void check_counts(const char* name, const at::Tensor& t) {
  const auto type = t.scalar_type();
  TORCH_CHECK_TYPE(is_floating(type) || type == at::kByte || type == at::kBool || type == at::kShort ||
                       type == at::kInt || type == at::kLong,
                   name, " must be float64, float32, bfloat16, float16, uint8, bool, int16, int32 or int64, got ",
                   type);
}

void check_same_device(const char* name, const at::Tensor& t, const char* other_name, const at::Tensor& other) {
  TORCH_CHECK_VALUE(t.device() == other.device(), name, " is on ", t.device(), ", but ", other_name, " is on ",
                    other.device(), ": expected both on one device");
}

void check_broadcasts(const char* name, const at::Tensor& t, const char* other_name, const at::Tensor& other) {
  const auto sizes = t.sym_sizes(), target = other.sym_sizes();
  bool fits = sizes.size() <= target.size();
  for (size_t i = 0; fits && i < sizes.size(); ++i) {
    const auto& size = sizes[sizes.size() - 1 - i];
    fits = size == target[target.size() - 1 - i] || size == 1;
  }
  TORCH_CHECK_VALUE(fits, name, " has shape ", sizes, ", which does not broadcast to ", other_name, "'s shape ",
                    target);
}

void check_like(const char* name, const at::Tensor& t, const char* other_name, const at::Tensor& other) {
  check_floating(name, t);
  check_same_device(name, t, other_name, other);
  TORCH_CHECK_TYPE(t.scalar_type() == other.scalar_type(), name, " is ", t.scalar_type(), ", but ", other_name, " is ",
                   other.scalar_type(), ": expected one dtype");
  check_broadcasts(name, t, other_name, other);
}

void check_batch_dims(int64_t batch_dims, const char* name, const at::Tensor& t) {
  TORCH_CHECK_VALUE(0 <= batch_dims && batch_dims <= t.dim(), "batch_dims must be from 0 to ", t.dim(),
                    ", the dimensions of ", name, " (shape ", t.sym_sizes(), "), got ", batch_dims);
}

void check_key(const at::Tensor& key, const at::Tensor& points, int64_t most, const char* name) {
  TORCH_CHECK_TYPE(key.scalar_type() == at::kLong, "key must be int64 (see noise_key), got ", key.scalar_type());
  const auto sizes = key.sym_sizes(), of_points = points.sym_sizes();
  bool fits = !sizes.empty() && sizes.back() == 2 && int64_t(sizes.size()) - 1 <= most;
  for (size_t d = 0; fits && d + 1 < sizes.size(); ++d) fits = sizes[d] == of_points[d];
  TORCH_CHECK_VALUE(fits, "key must have shape [2] (seed, offset), or [*batch, 2] with up to ", most,
                    " of the first sizes of ", name, " (shape ", of_points, ") as batch; got ", sizes);
  check_same_device("key", key, name, points);
}

void check_samples(const std::optional<c10::SymInt>& n_samples, const c10::SymInt& first_sample) {
  TORCH_CHECK_VALUE(!n_samples || *n_samples >= 1, "n_samples must be at least 1 (or None), got ", *n_samples);
  TORCH_CHECK_VALUE(first_sample >= 0, "first_sample must be at least 0, got ", first_sample);
}

}  // namespace aevb
