// Threads of a block as fibres, warp after warp, from barrier to barrier. See fibres.h.
#include "fibres.h"

#include <link.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

namespace faststeer {

// What packed_access.cuh declares.
alignas(16) thread_local unsigned char faststeer_shared[fibres::kMostShared];

}  // namespace faststeer

namespace fibres {
namespace {

constexpr int kWarp = 32;
constexpr int kMostThreads = 1024;
constexpr size_t kStack = 256 * 1024;  // the sanitizers' frames are large
constexpr size_t kPage = 4096;

enum class State { ready, at_barrier, at_shuffle, at_ballot, at_previous_kernel, returned };

struct Fibre {
  ucontext_t context;
  unsigned char* stack = nullptr;
  uint3 index;
  State state;
  Where where;  // it waits
  int64_t barriers;
  unsigned mask, source;
  uint32_t given, received;
};

// Never moved: a context holds pointers into itself.
std::array<Fibre, kMostThreads> all;
int threads;
Fibre* current;
const std::function<void()>* body;
ucontext_t scheduler;
const void* scheduler_stack;
size_t scheduler_stack_size;

// The warp that runs, and how many of its lanes had their turn.
int first_thread, lanes, turns;

Fibre* next_ready_lane() {
  while (turns < lanes) {
    const int lane = schedule.backward ? lanes - 1 - turns : turns;
    ++turns;
    if (all[first_thread + lane].state == State::ready) return &all[first_thread + lane];
  }
  return nullptr;
}

// Runs the next lane, or the scheduler after the last one. Returns when `self` is run again.
void hand_over(ucontext_t& self) {
  Fibre* next = next_ready_lane();
  void* asan;
  if (next != nullptr) {
    current = next;
    threadIdx = next->index;
    __sanitizer_start_switch_fiber(&asan, next->stack, kStack);
    swapcontext(&self, &next->context);
  } else {
    __sanitizer_start_switch_fiber(&asan, scheduler_stack, scheduler_stack_size);
    swapcontext(&self, &scheduler);
  }
  __sanitizer_finish_switch_fiber(asan, nullptr, nullptr);
}

void suspend_as(State state, const Where& where) {
  current->state = state;
  current->where = where;
  hand_over(current->context);
}

void enter() {
  if (scheduler_stack == nullptr) {  // the first fibre of all comes from the scheduler
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
  } else {
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
  }
  for (;;) {
    (*body)();
    suspend_as(State::returned, {});
  }
}

// Made once, below a page that a stack too deep runs into.
void make(Fibre& fibre) {
  if (fibre.stack != nullptr) return;
  void* memory = mmap(nullptr, kPage + kStack, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kPage, PROT_NONE) != 0) fail("no memory for stacks");
  fibre.stack = static_cast<unsigned char*>(memory) + kPage;
  getcontext(&fibre.context);
  fibre.context.uc_stack.ss_sp = fibre.stack;
  fibre.context.uc_stack.ss_size = kStack;
  makecontext(&fibre.context, enter, 0);
  // AddressSanitizer would otherwise forget all it knows of a stack at each switch to it.
  fibre.context.uc_stack.ss_size = 0;
}

std::string tell(const Where& where) {
  const std::string path = where.file_name();
  return path.substr(path.rfind('/') + 1) + ":" + std::to_string(where.line());
}

std::string tell(const Fibre& fibre) {
  const std::string thread = "thread " + std::to_string(&fibre - all.data());
  if (fibre.state == State::returned) return thread + " has returned";
  if (fibre.state == State::at_previous_kernel) return thread + " waits for the previous kernel";
  const char* at =
      fibre.state == State::at_barrier ? " waits at the barrier of " : " waits at the shuffle of ";
  return thread + at + tell(fibre.where);
}

[[noreturn]] void diverged(const Fibre& one, const Fibre& other) {
  fail("divergence: " + tell(one) + ", and " + tell(other));
}

bool same_place(const Where& a, const Where& b) {
  if (a.line() != b.line()) return false;
  return a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0;
}

bool waits_for_warp(const Fibre& fibre) {
  return fibre.state == State::at_shuffle || fibre.state == State::at_ballot;
}

// Checks that all lanes of the mask came, and gathers their votes.
void meet(Fibre* warp, Fibre& leader) {
  leader.received = 0;
  for (unsigned left = leader.mask; left != 0; left &= left - 1) {
    const int lane = std::countr_zero(left);
    const Fibre& other = warp[lane];
    if (&other - all.data() >= threads) {
      fail("divergence: " + tell(leader) + " for lanes that the block does not have");
    }
    if (other.state != leader.state || other.mask != leader.mask ||
        !same_place(other.where, leader.where)) {
      diverged(leader, other);
    }
    leader.received |= other.given << lane;
  }
}

// Hands round what the lanes of a warp gave. False if none waits for that.
bool exchange(Fibre* warp) {
  bool any = false;
  for (int i = 0; i < kWarp; ++i) {
    Fibre& self = warp[i];
    if (!waits_for_warp(self)) continue;
    any = true;
    if ((self.mask >> i & 1) == 0) fail("divergence: " + tell(self) + ", not in its own mask");
    if ((self.mask >> self.source & 1) == 0) {
      fail("divergence: " + tell(self) + " for a lane that its mask leaves out");
    }
    Fibre& leader = warp[std::countr_zero(self.mask)];
    if (&leader == &self) meet(warp, self);
    if (!waits_for_warp(leader) || leader.mask != self.mask) diverged(self, leader);
    self.received = self.state == State::at_shuffle ? warp[self.source].given : leader.received;
  }
  for (int i = 0; i < kWarp; ++i) {
    if (waits_for_warp(warp[i])) warp[i].state = State::ready;
  }
  return any;
}

// Until every lane waits for the block or has returned.
void run_warp(int first) {
  first_thread = first;
  lanes = std::min(kWarp, threads - first);
  do {
    turns = 0;
    hand_over(scheduler);
  } while (exchange(&all[first]));
}

// Whether an earlier kernel may yet write what kernels share, as this block sees it.
bool previous_kernel_runs = false;

void let_previous_kernel_run(bool runs) {
  const auto change = runs ? __asan_poison_memory_region : __asan_unpoison_memory_region;
  for (const auto& [address, size] : shared_with_other_kernels) change(address, size);
  previous_kernel_runs = runs;
}

// Until every thread has returned.
void run_block() {
  const int warps = (threads + kWarp - 1) / kWarp;
  for (;;) {
    for (int w = 0; w < warps; ++w) {
      run_warp(kWarp * (schedule.backward ? warps - 1 - w : w));
    }
    for (int i = 1; i < threads; ++i) {
      if (all[i].state != all[0].state || !same_place(all[i].where, all[0].where)) {
        diverged(all[0], all[i]);
      }
    }
    if (all[0].state == State::at_previous_kernel) let_previous_kernel_run(false);
    if (all[0].state == State::returned) return;
    for (int i = 0; i < threads; ++i) all[i].state = State::ready;
  }
}

// All of the program's thread_local memory is shared memory: nothing else here is thread_local.
int poison_threads_memory(dl_phdr_info* program, size_t, void* shared_bytes) {
  __asan_unpoison_memory_region(faststeer::faststeer_shared, sizeof faststeer::faststeer_shared);
  for (int i = 0; i < program->dlpi_phnum; ++i) {
    if (program->dlpi_phdr[i].p_type != PT_TLS) continue;
    std::memset(program->dlpi_tls_data, 0xff, program->dlpi_phdr[i].p_memsz);  // NaN, or -1
  }
  const int64_t bytes = *static_cast<int64_t*>(shared_bytes);
  __asan_poison_memory_region(faststeer::faststeer_shared + bytes,
                              sizeof faststeer::faststeer_shared - bytes);
  return 1;  // the program itself comes first, and the libraries are none of ours
}

}  // namespace

void fail(const std::string& message) {
  std::fprintf(stderr, "%s (block %u %u %u)\n", message.c_str(), blockIdx.x, blockIdx.y,
               blockIdx.z);
  std::_Exit(1);
}

void wait_for_block(Where where) {
  if (current->barriers++ == schedule.dropped_barrier) return;
  suspend_as(State::at_barrier, where);
}

void wait_for_previous_kernel(Where where) {
  if (previous_kernel_runs) suspend_as(State::at_previous_kernel, where);
}

uint32_t shuffle(unsigned mask, uint32_t given, unsigned source, Where where) {
  current->mask = mask;
  current->given = given;
  current->source = source % kWarp;
  suspend_as(State::at_shuffle, where);
  return current->received;
}

uint32_t ballot(unsigned mask, uint32_t given, Where where) {
  current->mask = mask;
  current->given = given;
  current->source = static_cast<unsigned>(current - all.data()) % kWarp;
  suspend_as(State::at_ballot, where);
  return current->received;
}

void run(dim3 grid, dim3 block, int64_t shared_bytes, bool overlap,
         const std::function<void()>& thread) {
  const uint64_t wanted = uint64_t{block.x} * block.y * block.z;
  if (wanted == 0 || wanted > kMostThreads) fail("a block has 1 to 1024 threads");
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  if (blocks == 0 || grid.x > INT32_MAX || grid.y > UINT16_MAX || grid.z > UINT16_MAX) {
    fail("a grid has 1 to 2147483647, 65535, 65535 blocks");
  }
  if (shared_bytes < 0 || shared_bytes > int64_t{sizeof faststeer::faststeer_shared}) {
    fail("a block has at most 99 KiB of shared memory");
  }
  threads = static_cast<int>(wanted);
  body = &thread;
  gridDim = grid;
  blockDim = block;
  for (int i = 0; i < threads; ++i) {
    make(all[i]);
    const unsigned at = static_cast<unsigned>(i);
    all[i].index = {at % block.x, at / block.x % block.y, at / block.x / block.y};
  }
  for (uint64_t b = 0; b < blocks; ++b) {
    const uint64_t at = schedule.backward ? blocks - 1 - b : b;
    blockIdx = {static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                static_cast<unsigned>(at / grid.x / grid.y)};
    dl_iterate_phdr(poison_threads_memory, &shared_bytes);
    for (int i = 0; i < threads; ++i) {
      all[i].state = State::ready;
      all[i].barriers = 0;
    }
    if (overlap && b == 0) let_previous_kernel_run(true);
    run_block();
    if (previous_kernel_runs) fail("the kernel ended without waiting for the previous one");
  }
}

}  // namespace fibres
