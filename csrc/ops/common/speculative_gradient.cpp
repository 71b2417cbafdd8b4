#include "ops/common/speculative_gradient.h"

#include <ATen/SavedTensorHooks.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/ops/empty.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>

#include "ops/common/launch.h"

namespace aevb {

// The history of cotangents of calls with one key.
class CotangentHistory {
 public:
  // The cotangent to guess, if any: that of the last two calls; at first 1, with which a loss's own backward starts.
  std::optional<double> guess() const { return repeats_ >= needed() ? std::optional<double>(last_) : std::nullopt; }

  void saw(std::optional<double> cotangent) {
    const double before = last_.exchange(cotangent.value_or(0));
    repeats_ = cotangent && before == *cotangent ? std::min(repeats_ + 1, kMostNeeded) : 0;
  }

  void was_used() { unused_ = 0; }

  // A gradient was computed and never used. In a compiled checkpoint, which computes the forward twice, that would
  // happen in every step: in graphs, guesses become rare then.
  void was_not_used(bool in_graph) {
    repeats_ = 0;
    if (in_graph && needed() < kMostNeeded) ++unused_;
  }

 private:
  static constexpr int kMostNeeded = 64;
  int needed() const { return unused_ ? 1 << (unused_ - 1) : 1; }

  // Threads may interleave their updates: that costs only a wrong guess.
  std::atomic<double> last_{1};
  std::atomic<int> repeats_{1};  // of the last cotangent
  std::atomic<int> unused_{0};   // gradients in graphs since the last gradient that was used
};

namespace {

CotangentHistory& history_of(size_t key, bool on_device) {
  constexpr size_t on_host = 4096;  // a collision costs a wrong guess
  static std::array<CotangentHistory, on_host> of_host;
  static std::array<CotangentHistory, kHistories> of_device;
  return on_device ? of_device[key % kHistories] : of_host[key % on_host];
}

bool reads_at_once(const at::Tensor& t) { return !t.defined() || (t.device().is_cpu() && !runs_cuda(t.device())); }

}  // namespace

bool may_bypass_dispatcher(const std::vector<at::Tensor>& tensors) {
  if (at::SavedTensorDefaultHooks::get_hooks(/*ignore_is_tracing=*/true)) return false;
  return std::all_of(tensors.begin(), tensors.end(), [](const at::Tensor& t) {
    return !t.defined() || ((t.device().is_cpu() || t.device().is_cuda()) && !t.is_neg() && !t._is_zerotensor() &&
                            !at::isTensorSubclassLike(t));
  });
}

bool may_speculate(const std::vector<at::Tensor>& tensors, bool on_device) {
  if (!may_bypass_dispatcher(tensors)) return false;
  return std::all_of(tensors.begin(), tensors.end(), reads_at_once) ||
         (on_device && std::all_of(tensors.begin(), tensors.end(),
                                   [](const at::Tensor& t) { return !t.defined() || guesses_cotangents(t.device()); }));
}

bool may_speculate_in_graph(const std::vector<at::Tensor>& tensors) {
  // Transforms of torch.func want the graph of the backward, in which there is nothing to take.
  for (const auto key :
       {at::DispatchKey::FuncTorchDynamicLayerFrontMode, at::DispatchKey::FuncTorchDynamicLayerBackMode})
    if (c10::impl::tls_is_dispatch_key_included(key)) return false;
  if (!c10::impl::TorchDispatchModeTLS::get_mode(c10::impl::TorchDispatchModeKey::FUNCTIONAL)) return false;
  return std::all_of(tensors.begin(), tensors.end(), reads_at_once);
}

namespace {

// The number that all elements of a cotangent equal, if they do; zero and NaN do not count.
template <class T>
std::optional<double> one_number(const at::Tensor& cotangent) {
  const T* const data = cotangent.const_data_ptr<T>();
  const auto strides = cotangent.strides();
  const bool expanded = std::all_of(strides.begin(), strides.end(), [](int64_t stride) { return stride == 0; });
  if (!expanded && !cotangent.is_contiguous()) return std::nullopt;
  const bool one = expanded || std::all_of(data, data + cotangent.numel(), [=](T g) { return g == *data; });
  return one && *data != 0 && *data == *data ? std::optional<double>(*data) : std::nullopt;
}

}  // namespace

bool SpeculativeGradient::guess(size_t history_key) {
  history_ = &history_of(history_key, false);
  const auto guess = history_->guess();
  guess_ = guess.value_or(0);
  return guess.has_value();
}

// Of a device's history the host knows none of the numbers: 1 stands for whatever was seen.
bool SpeculativeGradient::guess_on_device(size_t history_key) {
  on_device_ = true;
  history_ = &history_of(history_key, true);
  return history_->guess().has_value();
}

std::shared_ptr<GuessedGradients> SpeculativeGradient::take_on_device(const at::Tensor& cotangent) {
  if (!on_device_) return nullptr;
  history_->saw(1);
  history_->was_used();
  auto guessed = std::move(guessed_);
  guessed_.reset();
  return may_bypass_dispatcher({cotangent}) ? guessed : nullptr;
}

std::optional<std::vector<at::Tensor>> SpeculativeGradient::take(const at::Tensor& cotangent,
                                                                 at::ArrayRef<bool> wanted) {
  if (!history_ || on_device_ || !may_speculate({cotangent})) return std::nullopt;
  const auto seen =
      cotangent.scalar_type() == at::kDouble ? one_number<double>(cotangent) : one_number<float>(cotangent);
  history_->saw(seen);
  auto gradients = std::move(gradients_);
  gradients_.clear();
  if (gradients.empty() || seen != guess_) return std::nullopt;
  for (size_t i = 0; i < gradients.size() && i < wanted.size(); ++i) {
    if (!wanted[i]) gradients[i].reset();
    if (wanted[i] && !gradients[i].defined()) return std::nullopt;
  }
  history_->was_used();
  return gradients;
}

void SpeculativeGradient::discard(bool in_graph) {
  if (!gradients_.empty() || guessed_) history_->was_not_used(in_graph);
  gradients_.clear();
  guessed_.reset();
}

namespace {

// The memory of a tensor that stands for a speculative gradient.
struct Owner {
  alignas(64) uint8_t element = 0;
  std::mutex mutex;
  SpeculativeGradient speculative;

  static void release(void* memory) {
    auto* owner = static_cast<Owner*>(memory);
    owner->speculative.discard(/*in_graph=*/true);
    delete owner;
  }
};

}  // namespace

at::Tensor as_tensor(SpeculativeGradient speculative, const at::Tensor& operand) {
  const auto device = operand.device();
  if (!device.is_cpu() && !device.is_meta()) return at::empty({1}, at::device(device).dtype(at::kByte));
  c10::Storage storage;
  if (device.is_meta()) {
    storage = operand.storage();
  } else {
    auto* owner = new Owner{.element = 0, .mutex = {}, .speculative = std::move(speculative)};
    storage = c10::Storage({}, 1, c10::DataPtr(&owner->element, owner, &Owner::release, device), nullptr, false);
  }
  const auto key = device.is_meta() ? at::DispatchKey::Meta : at::DispatchKey::CPU;
  auto t = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key),
                                                    caffe2::TypeMeta::Make<uint8_t>());
  t.unsafeGetTensorImpl()->set_sizes_contiguous({1});
  return t;
}

std::optional<std::vector<at::Tensor>> take(const std::optional<at::Tensor>& speculative, const at::Tensor& cotangent,
                                            at::ArrayRef<bool> wanted) {
  if (!speculative || !speculative->has_storage()) return std::nullopt;
  const auto& memory = speculative->storage().data_ptr();
  if (memory.get_deleter() != &Owner::release) return std::nullopt;
  auto* owner = static_cast<Owner*>(memory.get_context());
  std::lock_guard<std::mutex> lock(owner->mutex);
  return owner->speculative.take(cotangent, wanted);
}

}  // namespace aevb
