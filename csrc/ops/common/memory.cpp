#include "ops/common/memory.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/CPUAllocator.h>

#ifdef __linux__
#include <sys/mman.h>

#include <atomic>
#include <mutex>
#include <vector>
#endif

namespace aevb {

#ifdef __linux__
namespace {

constexpr size_t kPage = 4096, kHugePage = size_t(2) << 20;
constexpr size_t kSmallest = 2 * kHugePage;  // the C library itself keeps smaller blocks
constexpr size_t kIdleBlocks = 16;
constexpr size_t kIdleBytes = size_t(256) << 20;  // the most idle memory that is kept
// Blocks begin at different places of a page, since a processor tells the lines that it is writing apart by their place
// in a page: two gradients that were written in step from the same place on took more than twice as long.
constexpr size_t kStagger = 256;

struct Block {
  char* data;
  size_t size;
};

// Blocks of huge pages, except at their ends. An idle block is reused as it is. Idle memory beyond kIdleBytes is
// unmapped, rather than only its pages released: if a process may map only so much (ulimit -v, strict overcommit),
// others in it would run out of addresses.
class Recycler final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t size) override {
    size = (size + kPage - 1) / kPage * kPage + kPage;  // room for any start within a page
    Block block = take(size);
    if (!block.data) block = map(size);
    if (!block.data) {
      let_go();
      block = map(size);
    }
    if (!block.data) return c10::GetDefaultCPUAllocator()->allocate(size);  // or raise its error
    c10::profiledCPUMemoryReporter().New(block.data, size);
    char* const start = block.data + kStagger * started_.fetch_add(1, std::memory_order_relaxed) % kPage;
    return {start, new Block(block), &give_back, at::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t count) const override { default_copy_data(to, from, count); }

  // Never destroyed: tensors may outlive it.
  static Recycler& instance() {
    static Recycler* only = new Recycler;
    return *only;
  }

 private:
  static void give_back(void* context) {
    const Block block = *static_cast<Block*>(context);
    delete static_cast<Block*>(context);
    c10::profiledCPUMemoryReporter().Delete(block.data);
    instance().keep(block);
  }

  static Block map(size_t size) {
    // Mapped with room to align to a huge page; the rest at both ends is unmapped.
    void* mapped = mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return {};
    char* const start = static_cast<char*>(mapped);
    const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(start) % kHugePage) % kHugePage;
    if (before) munmap(start, before);
    munmap(start + before + size, kHugePage - before);
    madvise(start + before, size, MADV_HUGEPAGE);
    return {start + before, size};
  }

  // The smallest idle block that is large enough but not twice as large; of several, the one last used.
  Block take(size_t size) {
    // A fork may have copied the lock while another thread held it, so no thread ever waits for it.
    std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock) return {};
    auto best = idle_.end();
    for (auto it = idle_.begin(); it != idle_.end(); ++it)
      if (it->size >= size && it->size < 2 * size && (best == idle_.end() || it->size <= best->size)) best = it;
    if (best == idle_.end()) return {};
    const Block block = *best;
    idle_.erase(best);
    return block;
  }

  // Unmap everything idle: the system has no more memory.
  void let_go() {
    std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock) return;
    for (const Block& block : idle_) munmap(block.data, block.size);
    idle_.clear();
  }

  void keep(const Block& block) {
    std::vector<Block> beyond = {block};
    if (std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock); lock) {
      idle_.push_back(block);
      beyond.clear();
      // The blocks that were used last are kept.
      size_t blocks = 0, bytes = 0;
      for (size_t i = idle_.size(); i-- > 0;) {
        if (blocks < kIdleBlocks && bytes + idle_[i].size <= kIdleBytes) {
          ++blocks;
          bytes += idle_[i].size;
        } else {
          beyond.push_back(idle_[i]);
          idle_.erase(idle_.begin() + i);
        }
      }
    }
    for (const Block& one : beyond) munmap(one.data, one.size);
  }

  std::atomic<size_t> started_ = 0;
  std::mutex mutex_;
  std::vector<Block> idle_;
};

constexpr c10::DispatchKeySet kCpu(c10::DispatchKey::CPU);

bool is_large(c10::SymIntArrayRef sizes, const at::TensorOptions& options) {
  return options.device().is_cpu() &&
         size_t(c10::multiply_integers(C10_AS_INTARRAYREF_SLOW(sizes))) * options.dtype().itemsize() >= kSmallest;
}

}  // namespace
#endif

at::Tensor empty(c10::SymIntArrayRef sizes, const at::TensorOptions& options) {
#ifdef __linux__
  if (is_large(sizes, options))
    return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(sizes), &Recycler::instance(), kCpu,
                                     c10::typeMetaToScalarType(options.dtype()), std::nullopt);
#endif
  return at::empty_symint(sizes, options);
}

at::Tensor empty_strided(c10::SymIntArrayRef sizes, c10::SymIntArrayRef strides, const at::TensorOptions& options) {
#ifdef __linux__
  if (is_large(sizes, options))
    return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(sizes), C10_AS_INTARRAYREF_SLOW(strides),
                                             &Recycler::instance(), kCpu, c10::typeMetaToScalarType(options.dtype()));
#endif
  return at::empty_strided_symint(sizes, strides, options);
}

}  // namespace aevb
