// A speculative gradient is computed before its cotangent is known.
//
// A loss gives an operator the same cotangent at every step: 1, -1, 1 / batch, GradScaler's scale. A forward that
// guesses it computes value and gradient in one pass over memory instead of two. If the guess was right, the backward
// only returns the gradient. If it was wrong, the backward computes the gradient as usual, by the same arithmetic: a
// guess changes the time that a result takes, never a bit of it.
//
// On a device the kernels guess and compare, row by row, in memory of the device (Guesses in call.h). The host, which
// never waits, knows of a call only whether its backward came. A captured graph guesses when it is replayed.
#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <tuple>
#include <vector>

namespace aevb {

class CotangentHistory;

// Whether an operator may call its kernels on these tensors by itself, and keep the results. The tensors have to be
// plain tensors whose memory holds their numbers (no negation bit, no zeros without memory). No mode or transform may
// observe the operators, and no hook may rely on little being saved (activation checkpointing).
bool may_bypass_dispatcher(const std::vector<at::Tensor>& tensors);

// Whether it may compute ahead of a cotangent: reading one on a device would wait for it, so that there the kernels
// have to guess it, which `on_device` says they do.
bool may_speculate(const std::vector<at::Tensor>& tensors, bool on_device = false);

// Whether AOTAutograd is tracing a forward together with its backward, of tensors whose operators may speculate.
bool may_speculate_in_graph(const std::vector<at::Tensor>& tensors);

// Gradients that wait for their cotangent. A Problem needs
//   std::optional<size_t> history_key(const Problem&);    the key of its history; none: no guess is made
//   std::tuple<at::Tensor, std::vector<at::Tensor>> values_and_gradients(const Problem&, double cotangent,
//                                                                        at::ArrayRef<bool> wanted, bool paired);
// and, where the kernels of a device guess for it, those of RowProblem (rows.h):
//   bool guesses_cotangents(const Problem&);
//   std::tuple<at::Tensor, std::shared_ptr<GuessedGradients>> values_and_guessed_gradients(...);
//   std::optional<std::vector<at::Tensor>> gradients_after_guess(...);
struct GuessedGradients;
template <class Problem>
concept GuessedOnDevice = requires(const Problem& problem) { guesses_cotangents(problem); };

class SpeculativeGradient {
 public:
  SpeculativeGradient() = default;
  SpeculativeGradient(SpeculativeGradient&&) = default;
  ~SpeculativeGradient() { discard(); }

  // The values, computed together with the gradients, if there is a cotangent to guess. The gradients are kept here.
  template <class Problem>
  std::optional<at::Tensor> compute(const Problem& problem, at::ArrayRef<bool> wanted, bool paired) {
    const auto key = history_key(problem);
    if (!key) return std::nullopt;
    if constexpr (GuessedOnDevice<Problem>)
      if (guesses_cotangents(problem)) {
        if (!guess_on_device(*key)) return std::nullopt;
        auto [value, guessed] = values_and_guessed_gradients(problem, wanted, paired);
        guessed_ = std::move(guessed);
        return value.defined() ? std::optional(value) : std::nullopt;
      }
    if (!guess(*key)) return std::nullopt;
    auto [value, gradients] = values_and_gradients(problem, guess_, wanted, paired);
    gradients_ = std::move(gradients);
    return value;
  }

  // The wanted gradients, if they were computed for this cotangent.
  std::optional<std::vector<at::Tensor>> take(const at::Tensor& cotangent, at::ArrayRef<bool> wanted);

  // What a device computed, whose kernel compares the cotangent; null: nothing, or the cotangent is no plain tensor.
  std::shared_ptr<GuessedGradients> take_on_device(const at::Tensor& cotangent);

  void discard(bool in_graph = false);

 private:
  bool guess(size_t history_key);
  bool guess_on_device(size_t history_key);

  CotangentHistory* history_ = nullptr;
  double guess_ = 0;
  std::vector<at::Tensor> gradients_;
  bool on_device_ = false;
  std::shared_ptr<GuessedGradients> guessed_;  // on a device
};

// In a compiled graph forward and backward share tensors alone. There a tensor stands for the speculative gradient: it
// has one element without meaning, and its memory owns the gradients. To the compiler both operators are functions of
// their tensors, and they are: from a copy of that tensor, or the second time, the backward takes nothing and computes
// its gradient as if there had been no guess. Without numbers (for the compiler) it shares the memory of `operand`: it
// then counts as what is saved anyway. Anything else that a graph saves, its backward may overwrite (it is "donated"),
// and would refuse retain_graph=True for that.
at::Tensor as_tensor(SpeculativeGradient speculative, const at::Tensor& operand);
std::optional<std::vector<at::Tensor>> take(const std::optional<at::Tensor>& speculative, const at::Tensor& cotangent,
                                            at::ArrayRef<bool> wanted);

}  // namespace aevb
