#include "ops/linear_rows.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <c10/util/hash.h>

#include "ops/common/launch.h"
#include "ops/common/memory.h"
#include "ops/linear_layer.h"

namespace aevb {
namespace {

using at::Tensor;

// Calls body(first row, number of rows, their x) for blocks of at most `most` rows of x [..., event], which may be
// expanded: a block is a part of one dimension with all inner dimensions.
template <class Body>
void for_each_block(const Tensor& x, int64_t first, int64_t most, const Body& body) {
  const auto lead = x.sizes().slice(0, x.dim() - 1);
  const int64_t rows = c10::multiply_integers(lead);
  if (rows <= most) return body(first, rows, x);
  const int64_t size = lead[0], inner = rows / size;
  if (inner > most) {
    for (int64_t i = 0; i < size; ++i) for_each_block(x.select(0, i), first + i * inner, most, body);
    return;
  }
  const int64_t blocks = (size + most / inner - 1) / (most / inner), step = (size + blocks - 1) / blocks;
  for (int64_t i = 0; i < size; i += step) {
    const int64_t count = std::min(step, size - i);
    body(first + i * inner, count * inner, x.narrow(0, i, count));
  }
}

// A gradient that is a sum over blocks: accumulated in the type of the arithmetic, and rounded to its own at the end.
class Sum {
 public:
  Sum(const Tensor& of, bool wanted) : of_(of) {
    if (wanted && of.defined()) total_ = empty(of.sym_sizes(), of.options().dtype(wide_type(of)));
  }
  explicit operator bool() const { return total_.defined(); }
  // One of the layer's heads: rows of the weight, elements of the bias.
  Tensor part(int64_t first, int64_t count) const { return total_.narrow(0, first, count); }
  const Tensor& total() const { return total_; }
  Tensor finish(bool any_rows) {
    if (total_.defined() && !any_rows) total_.zero_();
    return total_.defined() ? narrowed(total_, of_.scalar_type()) : total_;
  }

 private:
  Tensor of_, total_;
};

void put(const Tensor& total, const Tensor& term, bool add) { add ? total.add_(term) : total.copy_(term); }

Output advanced(Output output, int64_t rows, int64_t row_elements) {
  if (output.data) output.data = static_cast<char*>(output.data) + rows * row_elements * size_of(output.type);
  return output;
}

// A cotangent for the kernels: one number for all rows, for each row, or for each element.
Tensor by_rows(const LinearRows& problem, const Tensor& cotangent, const Tensor& full) {
  if (cotangent.dim() == 0) return cotangent;
  const Tensor over = over_event(cotangent, full, problem.event_dims, problem.reduction);
  if (problem.reduction == Reduction::none) return matrix(over);
  auto sizes = full.sizes().vec();
  sizes.back() = 1;
  return over.expand(sizes).reshape({-1, 1});
}

Tensor reduced(const LinearRows& problem, const Tensor& values, const Tensor& full) {
  if (problem.reduction == Reduction::none) return values;
  // Sum over the event's last dimension, then over the others.
  Tensor sums = reduce(values, full, 1, Reduction::sample);
  for (int64_t d = 1; d < problem.event_dims; ++d) sums = sums.sum(-1);
  return reduce(sums, sums, 0, problem.reduction);
}

// One pass over the blocks: the values, the gradients for a cotangent, or both.
std::tuple<Tensor, std::vector<Tensor>> pass(const LinearRows& problem, bool with_values, Tensor cotangent,
                                             at::ArrayRef<bool> wanted_gradients) {
  const Tensor full = problem.shape_of();
  const bool per_element = problem.reduction == Reduction::none;
  const auto wanted = [&](size_t i) { return i < wanted_gradients.size() && wanted_gradients[i]; };
  Tensor values, dh;
  if (with_values) values = empty_values(full, 1, per_element);
  const auto wide = wide_type(full);
  // A learnt spread may have a wider dtype than the layer, whose output is then converted to it. So is the gradient of
  // x: kernels write none that is narrower than their operands.
  const bool widened = problem.logvar.defined() && problem.logvar.scalar_type() != full.scalar_type();
  const Tensor rows_of_x = widened ? at::empty({1}, full.options().dtype(wide)).expand_symint(full.sym_sizes()) : full;
  // Blocks of rows follow each other in the gradient of x, however x lies.
  const Tensor x_in_rows = problem.x.is_contiguous_or_false()
                               ? problem.x
                               : at::empty({1}, problem.x.options()).expand_symint(problem.x.sym_sizes());
  OperandGradient dx(x_in_rows, rows_of_x, 1, wanted(0));
  if (wanted(1)) dh = empty(problem.h.sym_sizes(), problem.h.options());
  Sum dweight(problem.weight, wanted(2)), dbias(problem.bias, wanted(3)), dlogvar(problem.logvar, wanted(4));
  const bool through = wanted(1) || wanted(2) || wanted(3);

  bool any = false;
  if (!full.is_meta() && full.dim() > 0 && c10::multiply_integers(full.sizes().slice(0, full.dim() - 1)) > 0) {
    const int64_t heads = problem.heads(), features = full.size(-1),
                  most = rows_per_block(features * heads * problem.h.element_size(), runs_cuda(problem.h.device()));
    const Tensor h = matrix(problem.h), dh_rows = dh.defined() ? matrix(dh) : dh;

    RowCall shape = {};
    shape.formula = problem.formula;
    shape.params = {problem.x_scale, Spread::logvar};
    shape.event = features;
    shape.blocks = blocks_of(features);
    shape.wide = type_of(wide);
    if (cotangent.defined()) {
      cotangent = by_rows(problem, cotangent.to(wide), full);
      const auto points = full.sizes().slice(0, full.dim() - problem.event_dims);
      if (problem.reduction == Reduction::mean) shape.cotangent_scale = 1.0 / double(c10::multiply_integers(points));
    }

    const int64_t rows_at_once = std::min(most, h.size(0));
    // Products of finite numbers may overflow float16: they are summed in the arithmetic's type, and then narrowed.
    Tensor dh_wide;
    if (dh.defined() && h.scalar_type() == at::kHalf)
      dh_wide = at::empty({rows_at_once, h.size(1)}, h.options().dtype(wide));
    std::vector<Tensor> outputs(heads), derivatives(heads);
    for (int64_t k = 0; k < heads; ++k) {
      outputs[k] = at::empty({rows_at_once, features}, h.options());
      // In place only if nothing else reads it meanwhile: a GPU's read-only loads rely on that.
      derivatives[k] = runs_cuda(h.device()) && through ? at::empty_like(outputs[k]) : outputs[k];
    }

    for_each_block(problem.x.expand(full.sizes()), 0, most, [&](int64_t first, int64_t rows, Tensor x) {
      const Tensor h_block = h.narrow(0, first, rows);
      RowCall call = shape;
      call.rows = rows;
      call.in[0] = describe(x, x.sizes());
      std::vector<Tensor> operands;
      for (int64_t k = 0; k < heads; ++k) {
        Tensor y = outputs[k].narrow(0, 0, rows);
        layer(h_block, problem.weight.narrow(0, k * features, features),
              problem.bias.defined() ? problem.bias.narrow(0, k * features, features) : problem.bias, y);
        operands.push_back(widened ? y.to(wide) : y);
      }
      std::vector<Tensor> gradients;
      for (int64_t k = 0; k < heads; ++k)
        gradients.push_back(widened ? at::empty_like(operands[k]) : derivatives[k].narrow(0, 0, rows));
      if (problem.logvar.defined()) operands.push_back(problem.logvar);
      const Tensor like = operands[0];
      for (size_t k = 0; k < operands.size(); ++k) call.in[k + 1] = describe(operands[k], like.sizes());

      if (with_values) {
        call.value = {values.mutable_data_ptr(), type_of(values.scalar_type()), !per_element};
        call.value = advanced(call.value, first, per_element ? features : shape.blocks);
      }
      Tensor g;
      if (cotangent.defined()) {
        g = cotangent.dim() ? cotangent.narrow(0, first, rows) : cotangent;
        call.cotangent = describe(g, like.sizes());
      }
      call.gradient[0] = dx.output(call.event);
      call.gradient[0] = advanced(call.gradient[0], first, call.gradient[0].per_block ? shape.blocks : features);
      if (through)
        for (int64_t k = 0; k < heads; ++k)
          call.gradient[k + 1] = {gradients[k].mutable_data_ptr(), type_of(gradients[k].scalar_type())};
      OperandGradient spread(dlogvar ? dlogvar.total() : Tensor(), like, 1, bool(dlogvar));
      if (dlogvar) call.gradient[2] = spread.output(call.event);
      aevb::rows(call, h.device());

      if (dlogvar) put(dlogvar.total(), spread.finish(like, 1), any);
      const Tensor dh_block = dh.defined() ? dh_rows.narrow(0, first, rows) : dh;
      const Tensor dh_sum = dh_wide.defined() ? dh_wide.narrow(0, 0, rows) : dh_block;
      for (int64_t k = 0; through && k < heads; ++k) {
        const Tensor dy = narrowed(gradients[k], h.scalar_type());
        if (dh.defined()) multiply(dy, problem.weight.narrow(0, k * features, features), dh_sum, k > 0);
        if (dweight) multiply(dy.t(), h_block, dweight.part(k * features, features), any);
        if (dbias) put(dbias.part(k * features, features), at::sum(dy, 0, /*keepdim=*/false, wide), any);
      }
      if (dh_wide.defined()) dh_block.copy_(narrowed(dh_sum, dh_block.scalar_type()));
      any = true;
    });
  }

  if (with_values) values = reduced(problem, values, full);
  return {values,
          {dx.finish(full, 1), dh, dweight.finish(any || full.is_meta()), dbias.finish(any || full.is_meta()),
           dlogvar.finish(any || full.is_meta())}};
}

}  // namespace

Tensor LinearRows::shape_of() const {
  const auto sizes = h.sym_sizes();
  c10::SymDimVector shape(sizes.begin(), sizes.end());
  shape.back() = weight.sym_size(0) / heads();
  return at::empty({1}, h.options()).expand_symint(shape);
}

Tensor row_values(const LinearRows& problem) { return std::get<0>(pass(problem, true, {}, {})); }

std::vector<Tensor> row_gradients(const LinearRows& problem, const Tensor& cotangent, at::ArrayRef<bool> wanted,
                                  bool /*paired*/) {
  return std::get<1>(pass(problem, false, cotangent, wanted));
}

std::optional<size_t> history_key(const LinearRows& problem) {
  const auto key = history_key(problem.formula, problem.reduction, problem.shape_of());
  return key ? std::optional(c10::hash_combine(*key, size_t(problem.weight.size(1)) + 1)) : std::nullopt;
}

std::tuple<Tensor, std::vector<Tensor>> values_and_gradients(const LinearRows& problem, double cotangent,
                                                             at::ArrayRef<bool> wanted, bool /*paired*/) {
  return pass(problem, true, at::scalar_tensor(cotangent, at::dtype(wide_type(problem.h))), wanted);
}

}  // namespace aevb
