#include "machine.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <string_view>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Where the linker puts what a device keeps from one launch to the next (cuda_runtime.h); null: there is none.
extern "C" __attribute__((weak, visibility("hidden"))) char __start_device_memory[], __stop_device_memory[];

namespace emulation {

Place place;
std::vector<unsigned> only;
Counts counts;

namespace {

constexpr unsigned kWarp = 32;
constexpr size_t kStack = 256 << 10, kPage = 4096;
constexpr uint64_t kLargestTracked = 1 << 28;  // bytes of a result, beyond which what is written is not kept track of

// ---- From one stack to another ----

#if !defined(__x86_64__)
#error "the emulation knows the registers of x86-64 alone"
#endif
extern "C" void emulation_switch(void** save, void* to);
asm(R"(
.text
.hidden emulation_switch
.globl emulation_switch
.type emulation_switch,@function
emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulation_switch,.-emulation_switch
)");

struct Stack {
  char* memory;  // above a page that nobody may touch
  void* pointer = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
#endif

  explicit Stack(bool own) {
    memory = nullptr;
    if (!own) return;
    void* const mapped = mmap(nullptr, kStack + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    mprotect(mapped, kPage, PROT_NONE);
    memory = static_cast<char*>(mapped) + kPage;
  }
  // As if it had called emulation_switch: six registers, and where to return to, which is where it begins.
  void begin_at(void (*function)()) {
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(memory, kStack);  // of a kernel that a fault has ended
    fake = nullptr;
#endif
    void** top = reinterpret_cast<void**>(memory + kStack - 64);
    *--top = nullptr;  // so that the stack is as after a call
    *--top = reinterpret_cast<void*>(function);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    pointer = top;
  }
};

// ---- The buffers of a launch ----

struct Result {
  Buffer buffer;
  std::vector<bool> written;  // its bytes
};

struct Watched {
  std::vector<Buffer> operands;
  std::vector<Result> results;
};
// The innermost Watch's; null: none.
Watched* watched = nullptr;
std::vector<std::unique_ptr<Watched>> all_watched;

// How far `at` lies behind the buffer's first byte. The last row has no gap.
uint64_t offset_in(const Buffer& buffer, uintptr_t at) { return at - reinterpret_cast<uintptr_t>(buffer.data); }
uint64_t extent(const Buffer& buffer) { return buffer.rows ? buffer.rows * (buffer.row + buffer.gap) - buffer.gap : 0; }

// Whether `size` bytes lie in it, without a gap.
bool has(const Buffer& buffer, uintptr_t at, size_t size) {
  const uint64_t offset = offset_in(buffer, at);
  if (offset >= extent(buffer)) return false;
  return buffer.gap ? offset % (buffer.row + buffer.gap) + size <= buffer.row : offset + size <= extent(buffer);
}

// ---- The memory of this program or library: constants, and what kernels share ----

struct Segments {
  uintptr_t begin = 0, end = 0, writable_begin = 0, writable_end = 0;

  Segments() {
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* self) {
          Segments found{nullptr};
          bool ours = false;
          for (int i = 0; i < info->dlpi_phnum; ++i) {
            const auto& header = info->dlpi_phdr[i];
            if (header.p_type != PT_LOAD) continue;
            const uintptr_t first = info->dlpi_addr + header.p_vaddr, last = first + header.p_memsz;
            const auto here = reinterpret_cast<uintptr_t>(&place);
            if (!found.begin) found.begin = first;
            found.end = last;
            if (here < first || here >= last) continue;
            ours = true;
            found.writable_begin = first, found.writable_end = last;
          }
          if (ours) *static_cast<Segments*>(self) = found;
          return int(ours);
        },
        this);
  }
  explicit Segments(std::nullptr_t) {}
};

// Who last used a byte of shared memory, and when: times are counted in barriers.
struct Use {
  uint64_t written = 0, read = 0;
  unsigned writer = 0, reader = 0;
};
constexpr unsigned kSeveral = ~0u;

// ---- The machine ----

enum class Order { forward, reverse, shuffled, ahead };
enum class At { ready, shuffle, barrier, done, fault };

Order order_wanted() {
  const char* const name = std::getenv("AEVB_EMULATION_ORDER");
  if (!name || !*name || std::string_view(name) == "forward") return Order::forward;
  if (std::string_view(name) == "reverse") return Order::reverse;
  if (std::string_view(name) == "shuffled") return Order::shuffled;
  if (std::string_view(name) == "ahead") return Order::ahead;
  throw std::invalid_argument("AEVB_EMULATION_ORDER=" + std::string(name) +
                              ": expected forward, reverse, shuffled or ahead");
}

// How many blocks a launch may have in either direction; the kernels' loops make up for those that it lacks.
unsigned most_blocks() {
  const char* const given = std::getenv("AEVB_EMULATION_BLOCKS");
  if (!given || !*given) return ~0u;
  const long most = std::strtol(given, nullptr, 10);
  if (most < 1) throw std::invalid_argument("AEVB_EMULATION_BLOCKS=" + std::string(given) + ": expected 1 or more");
  return static_cast<unsigned>(std::min<long>(most, 1 << 30));
}

struct Thread {
  Stack stack{true};
  At at = At::done;
  Shuffle sent = {};
  uint64_t received = 0;
};

class Machine {
 public:
  static Machine& instance() {
    static Machine* const machine = new Machine;
    return *machine;
  }

  void run(const Body& body, dim3 blocks, dim3 threads) {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++counts.launches;
    body_ = &body;
    order_ = order_wanted();
    const unsigned most = most_blocks();
    blocks.x = std::min(blocks.x, most), blocks.y = std::min(blocks.y, most);
    place = {{0, 0, 0}, {0, 0, 0}, threads, blocks};
    while (threads_.size() < threads.x) threads_.emplace_back();
    const std::vector<unsigned> chosen = only;
    const uint64_t across = chosen.empty() ? blocks.x : chosen.size(), count = across * blocks.y;
    // A step that shares no factor with the count comes to every block once.
    uint64_t step = 2654435761;
    while (order_ == Order::shuffled && std::gcd(step, count) != 1) ++step;
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t n = order_ == Order::reverse ? count - 1 - i : order_ == Order::shuffled ? i * step % count : i;
      place.block = dim3(chosen.empty() ? n % across : chosen[n % across], n / across);
      one_block();
    }
  }

  // Of the thread that runs, from its own stack. What is called in between is not watched: some of the standard library
  // may have been compiled with kernels.
  void wait(At at) {
    in_kernel_ = false;
    self_->at = at;
    to_scheduler();
  }
  uint64_t shuffle(const Shuffle& own) {
    self_->sent = own;
    wait(At::shuffle);
    return self_->received;
  }
  void access(uintptr_t at, size_t size, bool write, bool whole) {
    if (!in_kernel_) return;
    in_kernel_ = false;
    look_at(at, size, write, whole);
    in_kernel_ = true;
  }
  void check_alignment(uintptr_t at, size_t size) {
    if (!in_kernel_ || at % size == 0) return;
    in_kernel_ = false;
    fail_unaligned(size);
  }

 private:
  static std::string text(const dim3& d) { return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ")"; }
  std::string described(const std::string& what) const {
    return "emulated CUDA: " + what + ", in " + body_->name() + ", block " + text(place.block) + " of " +
           text(place.blocks) + ", thread " + std::to_string(place.thread.x) + " of " + std::to_string(place.threads.x);
  }
  // Of the scheduler, on the stack of who has launched.
  [[noreturn]] void raise(const std::string& what) { throw Fault(described(what)); }
  // Of a thread, which ends here.
  [[noreturn]] void fail(const std::string& what) {
    fault_ = described(what);
    wait(At::fault);
    std::abort();
  }

  [[noreturn]] void fail_unaligned(size_t size) {
    fail("an access to " + std::to_string(size) + " bytes that is not aligned to them");
  }

  static void begin() {
    Machine& machine = instance();
    machine.arrived();
    (*machine.body_)();
    machine.wait(At::done);
    std::abort();
  }

  void one_block() {
    ++counts.blocks;
    block_began_ = ++now_;
    const unsigned size = place.threads.x, warps = (size + kWarp - 1) / kWarp;
    for (unsigned i = 0; i < size; ++i) {
      threads_[i].stack.begin_at(&begin);
      threads_[i].at = At::ready;
    }
    turn_.resize(warps);
    for (;;) {
      // Each warp as far as it comes alone: one that runs ahead finds what a missing barrier leaves open.
      for (unsigned i = 0; i < warps; ++i) turn_[i] = order_ == Order::reverse ? warps - 1 - i : i;
      if (order_ == Order::shuffled)
        for (unsigned i = warps - 1; i > 0; --i) std::swap(turn_[i], turn_[random() % (i + 1)]);
      if (order_ == Order::ahead) std::swap(turn_[0], turn_[(place.block.x + place.block.y + 1) % warps]);
      for (const unsigned warp : turn_) {
        const unsigned first = warp * kWarp, lanes = std::min(kWarp, size - first);
        do {
          const unsigned from = order_ == Order::shuffled ? random() % lanes : 0;
          for (unsigned i = 0; i < lanes; ++i) {
            const unsigned lane = order_ == Order::reverse ? lanes - 1 - i : (i + from) % lanes;
            if (threads_[first + lane].at == At::ready) resume(first + lane);
          }
        } while (exchange(first, lanes));
      }
      unsigned done = 0, waiting = 0;
      for (unsigned i = 0; i < size; ++i) {
        done += threads_[i].at == At::done;
        waiting += threads_[i].at == At::barrier;
      }
      if (done == size) return;
      if (waiting != size) {
        place.thread.x = 0;
        while (threads_[place.thread.x].at == At::barrier) ++place.thread.x;
        raise("a barrier that not all threads of the block reach: " + std::to_string(waiting) + " of " +
              std::to_string(size) + " wait there, and not this one");
      }
      ++counts.barriers, ++now_;
      for (unsigned i = 0; i < size; ++i) threads_[i].at = At::ready;
    }
  }

  // Lets a warp go on whose lanes have met at a shuffle.
  bool exchange(unsigned first, unsigned lanes) {
    unsigned here = 0, named = 0;
    for (unsigned i = 0; i < lanes; ++i) here |= unsigned(threads_[first + i].at == At::shuffle) << i;
    if (!here) return false;
    const auto each = [&](auto body) {
      for (unsigned i = 0; i < lanes; ++i) {
        if (!(here >> i & 1)) continue;
        place.thread.x = first + i;
        body(i, threads_[first + i]);
      }
    };
    each([&](unsigned i, const Thread& t) {
      if (!(t.sent.mask >> i & 1)) raise("a shuffle whose mask does not name the lane itself");
      named |= t.sent.mask;
    });
    if (lanes < kWarp) named &= (1u << lanes) - 1;
    if (named != here) {
      place.thread.x = first + __builtin_ctz(named & ~here);
      raise("a shuffle that not all lanes of its mask reach: this one does not");
    }
    each([&](unsigned i, Thread& t) {
      const unsigned from = i ^ unsigned(t.sent.distance);
      if (from >= lanes || !(here >> from & 1)) raise("a shuffle from a lane that is not there");
      const Shuffle& other = threads_[first + from].sent;
      if (other.distance != t.sent.distance || other.bytes != t.sent.bytes || other.mask != t.sent.mask)
        raise("lanes of a warp that are at different shuffles");
      t.received = other.value;
    });
    each([](unsigned, Thread& t) { t.at = At::ready; });
    ++counts.shuffles;
    return true;
  }

  void resume(unsigned i) {
    place.thread.x = i;
    self_ = &threads_[i];
    Stack& to = self_->stack;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler_.fake, to.memory, kStack);
#endif
    in_kernel_ = true;
    emulation_switch(&scheduler_.pointer, to.pointer);
    in_kernel_ = false;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler_.fake, nullptr, nullptr);
#endif
    if (self_->at == At::fault) throw Fault(fault_);
  }
  void to_scheduler() {
    Stack& from = self_->stack;
#if defined(__SANITIZE_ADDRESS__)
    const bool ends = self_->at == At::done || self_->at == At::fault;
    __sanitizer_start_switch_fiber(ends ? nullptr : &from.fake, scheduler_memory_, scheduler_size_);
#endif
    emulation_switch(&from.pointer, scheduler_.pointer);
    arrived();
  }
  void arrived() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(self_->stack.fake, &scheduler_memory_, &scheduler_size_);
#endif
  }

  void look_at(uintptr_t at, size_t size, bool write, bool whole);
  void shared_access(uintptr_t at, size_t size, bool write);
  void buffer_access(uintptr_t at, size_t size, bool write);

  uint32_t random() {
    state_ ^= state_ << 13, state_ ^= state_ >> 17, state_ ^= state_ << 5;
    return state_;
  }

  std::mutex mutex_;
  std::vector<Thread> threads_;
  std::vector<unsigned> turn_;
  const Body* body_ = nullptr;
  Order order_ = Order::forward;
  Thread* self_ = nullptr;  // that runs
  uint32_t state_ = 2463534242u;
  bool in_kernel_ = false;
  std::string fault_;
  Stack scheduler_{false};
#if defined(__SANITIZE_ADDRESS__)
  const void* scheduler_memory_ = nullptr;
  size_t scheduler_size_ = 0;
#endif
  const Segments segments_;
  std::vector<Use> shared_ = std::vector<Use>(segments_.writable_end - segments_.writable_begin);
  uint64_t now_ = 1, block_began_ = 0;
};

// ---- Accesses ----

// `whole`: of one number, which has to be aligned to its size.
void Machine::look_at(uintptr_t at, size_t size, bool write, bool whole) {
  ++counts.accesses;
  if (whole && at % size) fail_unaligned(size);
  if (at - reinterpret_cast<uintptr_t>(self_->stack.memory) < kStack) return;
  const auto kept = reinterpret_cast<uintptr_t>(__start_device_memory);
  if (at - kept < reinterpret_cast<uintptr_t>(__stop_device_memory) - kept) return;
  if (at >= segments_.writable_begin && at < segments_.writable_end)
    shared_access(at, size, write);
  else if (write || at < segments_.begin || at >= segments_.end)
    buffer_access(at, size, write);
}

void Machine::shared_access(uintptr_t at, size_t size, bool write) {
  if (at - reinterpret_cast<uintptr_t>(&place) < sizeof(place)) return;
  const unsigned current = place.thread.x;
  for (size_t i = 0; i < size; ++i) {
    Use& use = shared_[at - segments_.writable_begin + i];
    const bool written_now = use.written == now_, read_now = use.read == now_;
    // What no block has written is no shared memory.
    if (!write && use.written && use.written < block_began_)
      fail("shared memory is read that another block has written, and not this one");
    if (written_now && use.writer != current)
      fail("shared memory is " + std::string(write ? "written" : "read") + " that thread " +
           std::to_string(use.writer) + " has written, with no barrier between");
    if (write && read_now && use.reader != current)
      fail("shared memory is written that another thread has read, with no barrier between");
    if (write) {
      use.written = now_, use.writer = current;
    } else {
      use.reader = read_now && use.reader != current ? kSeveral : current;
      use.read = now_;
    }
  }
}

void Machine::buffer_access(uintptr_t at, size_t size, bool write) {
  const std::string what = (write ? "a store of " : "a load of ") + std::to_string(size) + " bytes ";
  if (watched) {
    for (Result& result : watched->results) {
      if (!has(result.buffer, at, size)) continue;
      if (!write) fail("a load from " + result.buffer.name + ", which the launch writes");
      const uint64_t offset = offset_in(result.buffer, at);
      for (size_t i = 0; i < size && !result.written.empty(); ++i) {
        if (result.written[offset + i])
          fail(what + "to byte " + std::to_string(offset) + " of " + result.buffer.name + ", which has been written");
        result.written[offset + i] = true;
      }
      return;
    }
    for (const Buffer& operand : watched->operands) {
      if (!has(operand, at, size)) continue;
      if (write) fail(what + "to " + operand.name + ", an operand");
      return;
    }
  }
  // Of what it lies nearest to.
  std::string where = at < kPage ? "at a null pointer" : "in no buffer of the launch";
  uint64_t nearest = kPage;
  const auto look = [&](const Buffer& buffer) {
    const uint64_t offset = offset_in(buffer, at), after = offset - extent(buffer), before = -offset;
    if (std::min(after, before) >= nearest && offset >= extent(buffer)) return;
    nearest = offset < extent(buffer) ? 0 : std::min(after, before);
    where = offset < extent(buffer) ? "across the end of a row of " + buffer.name
            : after < before        ? std::to_string(after) + " bytes behind the end of " + buffer.name
                                    : std::to_string(before) + " bytes before " + buffer.name;
  };
  if (watched && at >= kPage) {
    for (const Buffer& operand : watched->operands) look(operand);
    for (const Result& result : watched->results) look(result.buffer);
  }
  fail(what + where);
}

}  // namespace

void launch(const Body& body, dim3 blocks, dim3 threads) { Machine::instance().run(body, blocks, threads); }
void barrier() { Machine::instance().wait(At::barrier); }
void check_alignment(const void* at, size_t size) {
  Machine::instance().check_alignment(reinterpret_cast<uintptr_t>(at), size);
}
uint64_t shuffle(const Shuffle& own) { return Machine::instance().shuffle(own); }

std::string name_of(const void* function, const char* parameter) {
  const auto demangled = [](const char* name) {
    const std::unique_ptr<char, void (*)(void*)> text(abi::__cxa_demangle(name, nullptr, nullptr, nullptr), std::free);
    return std::string(text ? text.get() : name);
  };
  Dl_info info;
  if (dladdr(function, &info) && info.dli_sname && info.dli_saddr == function) return demangled(info.dli_sname);
  return "the kernel that is given a " + demangled(parameter);
}

Watch::Watch(std::vector<Buffer> buffers) {
  auto all = std::make_unique<Watched>();
  for (Buffer& buffer : buffers) {
    if (!buffer.data || !extent(buffer)) continue;
    if (!buffer.is_result) {
      all->operands.push_back(std::move(buffer));
      continue;
    }
    const uint64_t bytes = only.empty() && extent(buffer) <= kLargestTracked ? extent(buffer) : 0;
    all->results.push_back({std::move(buffer), std::vector<bool>(bytes)});
  }
  watched = all.get();
  all_watched.push_back(std::move(all));
}

Watch::~Watch() {
  all_watched.pop_back();
  watched = all_watched.empty() ? nullptr : all_watched.back().get();
}

void Watch::finish() const {
  if (!counts.accesses) return;  // nothing is seen
  for (const Result& result : watched->results)
    for (uint64_t i = 0; i < result.written.size(); ++i)
      if (i % (result.buffer.row + result.buffer.gap) < result.buffer.row && !result.written[i] &&
          !result.buffer.may_be_left)
        throw Fault("emulated CUDA: byte " + std::to_string(i) + " of " + result.buffer.name + ", of " +
                    std::to_string(extent(result.buffer)) + ", is not written");
}

}  // namespace emulation

// ---- What -fsanitize=thread calls ----

#define EMULATION_ACCESS(size)                                                                 \
  extern "C" void __tsan_read##size(void* at) {                                                \
    emulation::Machine::instance().access(reinterpret_cast<uintptr_t>(at), size, false, true); \
  }                                                                                            \
  extern "C" void __tsan_write##size(void* at) {                                               \
    emulation::Machine::instance().access(reinterpret_cast<uintptr_t>(at), size, true, true);  \
  }
EMULATION_ACCESS(1)
EMULATION_ACCESS(2)
EMULATION_ACCESS(4)
EMULATION_ACCESS(8)
EMULATION_ACCESS(16)
extern "C" void __tsan_read_range(void* at, size_t size) {
  emulation::Machine::instance().access(reinterpret_cast<uintptr_t>(at), size, false, false);
}
extern "C" void __tsan_write_range(void* at, size_t size) {
  emulation::Machine::instance().access(reinterpret_cast<uintptr_t>(at), size, true, false);
}
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
