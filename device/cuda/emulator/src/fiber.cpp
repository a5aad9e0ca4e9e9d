#include "fiber.h"

#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

// emulate_switch keeps the registers that a call preserves on the stack, stores the stack pointer to *save and goes on where load was saved.
extern "C" void emulate_switch(void **save, void *load);
#if defined(__x86_64__)
asm(R"(
.text
.globl emulate_switch
.hidden emulate_switch
.type emulate_switch, @function
emulate_switch:
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
.size emulate_switch, .-emulate_switch
)");
enum { saved_words = 8, return_word = 6 };  // six registers, the return address, one word so that the entry finds the stack as after a call
#elif defined(__aarch64__)
asm(R"(
.text
.globl emulate_switch
.hidden emulate_switch
.type emulate_switch, %function
emulate_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size emulate_switch, .-emulate_switch
)");
enum { saved_words = 20, return_word = 11 };
#else
#error "the emulator runs on x86-64 and arm64"
#endif

namespace {

const size_t guard = 4 << 20;  // a multiple of any page size; a frame that is too large for a stack ends in the guard
const size_t stack_bytes = 256 << 10;
const size_t dynamic_most = 256 << 10;

enum State { New, Ready, AtBarrier, InWarp, Done };

struct Fiber {
  Thread self;
  State state;
  void *sp, *stack;
  // where it waits
  int barrier, threads, predicate;
  unsigned mask;
  void *mine;
  void (*all)(void **, unsigned);
  const char *what;
};

struct Machine {
  const Launch *launch;
  std::vector<Fiber> fibers;
  std::vector<void *> stacks;  // free ones
  std::vector<int> order;      // of the fibers
  Fiber *now;
  void *home;  // the scheduler's stack pointer
  int result;  // of a barrier that votes
  bool failed;
  int code;
  std::string why;
  char *dynamic_end;
  pid_t tid;  // of the thread that runs a kernel, else 0
  uint64_t spins;
  void *fault;
  int signal;
} m;

std::string place(const Fiber *f) {
  char b[200];
  const Thread &t = f->self;
  snprintf(b, sizeof b, "block (%u, %u, %u), thread (%u, %u, %u)", t.block.x, t.block.y, t.block.z, t.thread.x, t.thread.y, t.thread.z);
  return b;
}

void yield() {
  Fiber *f = m.now;
  emulate_switch(&f->sp, m.home);
}

// stop ends the launch with an error; it does not return.
[[noreturn]] void stop(int code, const std::string &why) {
  m.failed = true;
  m.code = code;
  m.why = why;
  yield();
  __builtin_unreachable();
}

void fail(const char *why) { stop(719, std::string(why) + " in " + place(m.now)); }

int warp_of(const Fiber *f) { return (int)(f - m.fibers.data()) / 32; }

// gather completes the warp collective that f waits in, if all living lanes of its mask have come.
bool gather(Fiber *f) {
  int first = warp_of(f) * 32;
  void *lanes[32] = {};
  unsigned there = 0;
  for (int i = 0; i < 32; i++) {
    if (!(f->mask >> i & 1) || first + i >= (int)m.fibers.size()) continue;
    Fiber *g = &m.fibers[first + i];
    if (g->state == Done) continue;
    if (g->state != InWarp || g->mask != f->mask || g->all != f->all) return false;
    lanes[i] = g->mine;
    there |= 1u << i;
  }
  if (f->all) f->all(lanes, there);
  for (int i = 0; i < 32; i++)
    if (there >> i & 1) m.fibers[first + i].state = Ready;
  return true;
}

void warp(unsigned mask, void *mine, void (*all)(void **, unsigned), const char *what) {
  Fiber *f = m.now;
  int lane = (int)(f - m.fibers.data()) % 32;
  if (!(mask >> lane & 1)) fail((std::string(what) + " by a lane that its mask leaves out").c_str());
  f->mask = mask, f->mine = mine, f->all = all, f->what = what;
  f->state = InWarp;
  if (!gather(f)) yield();
}

void barrier(int id, int threads, const char *what) {
  Fiber *f = m.now;
  f->barrier = id, f->threads = threads, f->what = what;
  f->state = AtBarrier;
  yield();
}

int vote_barrier(int predicate, int how) {
  m.now->predicate = predicate;
  barrier(-1 - how, 0, "__syncthreads with a vote");
  return m.now->predicate;
}

void print(const char *format, va_list l) { vfprintf(stderr, format, l); }

unsigned long long nanoseconds() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (unsigned long long)t.tv_sec * 1000000000 + (unsigned long long)t.tv_nsec;
}

void give_way() {
  m.spins++;
  yield();
}

// fiber_main is the bottom of each fiber's stack.
void fiber_main() {
  m.launch->entry(m.launch->args);
  Fiber *f = m.now;
  f->state = Done;
  int first = warp_of(f) * 32;
  for (int i = first; i < first + 32 && i < (int)m.fibers.size(); i++)
    if (m.fibers[i].state == InWarp) gather(&m.fibers[i]);
  yield();
  __builtin_unreachable();
}

void *new_stack() {
  char *p = (char *)mmap(nullptr, stack_bytes + guard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  mprotect(p + guard, stack_bytes, PROT_READ | PROT_WRITE);
  return p + guard + stack_bytes;
}

void resume(Fiber *f) {
  if (f->state == New) {
    if (m.stacks.empty()) {
      void *s = new_stack();
      if (!s) {
        m.failed = true, m.code = 2, m.why = "no memory for the stacks of the threads";
        return;
      }
      m.stacks.push_back(s);
    }
    f->stack = m.stacks.back();
    m.stacks.pop_back();
    uintptr_t *sp = (uintptr_t *)f->stack - saved_words;
    memset(sp, 0, saved_words * sizeof *sp);
    sp[return_word] = (uintptr_t)fiber_main;
    f->sp = sp;
    f->state = Ready;
  }
  m.now = f;
  *m.launch->self = &f->self;
  emulate_switch(&m.home, f->sp);
  if (f->state == Done || m.failed) {
    if (f->stack) m.stacks.push_back(f->stack);
    f->stack = nullptr;
  }
}

// release lets go the threads at barriers that are complete and says whether there was one.
bool release() {
  int alive = 0;
  for (const Fiber &f : m.fibers) alive += f.state != Done;
  bool any = false;
  for (Fiber &f : m.fibers) {
    if (f.state != AtBarrier) continue;
    int count = 0, sum = 0, want = f.threads ? f.threads : alive;
    for (const Fiber &g : m.fibers)
      if (g.state == AtBarrier && g.barrier == f.barrier) count++, sum += g.predicate;
    if (count < want) continue;
    int result = f.barrier == -1 ? sum == count : f.barrier == -2 ? sum > 0 : sum, id = f.barrier;
    for (Fiber &g : m.fibers) {
      if (g.state != AtBarrier || g.barrier != id) continue;
      g.state = Ready;
      if (id < 0) g.predicate = result; else g.predicate = 0;
    }
    any = true;
  }
  return any;
}

// stuck describes the threads of a block of which none can go on.
std::string stuck() {
  std::string s;
  std::vector<bool> told(m.fibers.size());
  for (size_t i = 0; i < m.fibers.size(); i++) {
    const Fiber &f = m.fibers[i];
    if (told[i]) continue;
    int count = 0;
    for (size_t j = i; j < m.fibers.size(); j++) {
      const Fiber &g = m.fibers[j];
      if (g.state != f.state || (f.state != Done && (strcmp(g.what, f.what) || g.mask != f.mask || g.barrier != f.barrier))) continue;
      told[j] = true;
      count++;
    }
    char b[160];
    if (f.state == Done)
      snprintf(b, sizeof b, "%d threads have returned", count);
    else if (f.state == AtBarrier)
      snprintf(b, sizeof b, "%d wait in %s", count, f.what);
    else
      snprintf(b, sizeof b, "%d wait in %s with mask %08x", count, f.what, f.mask);
    s += (s.empty() ? "" : ", ") + std::string(b);
  }
  return "deadlock in block (" + std::to_string(m.fibers[0].self.block.x) + ", " + std::to_string(m.fibers[0].self.block.y) + ", " +
         std::to_string(m.fibers[0].self.block.z) + "): " + s;
}

void run_block() {
  bool again = true;
  m.spins = 0;
  while (again && !m.failed) {
    again = false;
    for (size_t w = 0; w < m.order.size(); w += 32) {
      for (bool more = true; more;) {
        more = false;
        for (size_t i = w; i < w + 32 && i < m.order.size(); i++) {
          Fiber *f = &m.fibers[m.order[i]];
          if (f->state > Ready) continue;
          uint64_t spins = m.spins;
          resume(f);
          if (m.failed) return;
          if (m.spins == spins) more = true;
          again = true;
        }
      }
    }
    if (m.spins > 10000000) {
      m.failed = true, m.code = 719, m.why = "a thread waits without end in __nanosleep";
      return;
    }
    if (!again) again = release();
  }
  for (const Fiber &f : m.fibers) {
    if (f.state == Done) continue;
    m.failed = true, m.code = 719, m.why = stuck();
    return;
  }
}

// set_order fills m.order: warps follow each other, and the lanes of a warp.
void set_order(Order order, std::mt19937 &random) {
  int n = (int)m.fibers.size(), warps = (n + 31) / 32;
  std::vector<int> w(warps);
  for (int i = 0; i < warps; i++) w[i] = order == Order::Reverse ? warps - 1 - i : i;
  if (order == Order::Shuffled) std::shuffle(w.begin(), w.end(), random);
  m.order.clear();
  for (int i : w) {
    std::vector<int> lanes;
    for (int j = i * 32; j < i * 32 + 32 && j < n; j++) lanes.push_back(j);
    if (order == Order::Reverse) std::reverse(lanes.begin(), lanes.end());
    if (order == Order::Shuffled) std::shuffle(lanes.begin(), lanes.end(), random);
    m.order.insert(m.order.end(), lanes.begin(), lanes.end());
  }
}

char *dynamic_shared(size_t bytes) {
  if (!m.dynamic_end) {
    char *p = (char *)mmap(nullptr, dynamic_most + 2 * guard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    mprotect(p + guard, dynamic_most, PROT_READ | PROT_WRITE);
    m.dynamic_end = p + guard + dynamic_most;
  }
  return m.dynamic_end - (bytes + 127) / 128 * 128;
}

// landing is where a thread goes on after a fault: on a stack of its own, out of the fiber.
alignas(16) char landing_stack[65536];
void landing() {
  char b[120];
  const char *kind = m.signal == SIGILL || m.signal == SIGTRAP ? "misaligned address, or an index outside its array" :
                     m.signal == SIGFPE                        ? "division of an integer by zero" : "illegal address";
  if (m.signal == SIGSEGV || m.signal == SIGBUS) snprintf(b, sizeof b, "%s %p in ", kind, m.fault);
  else snprintf(b, sizeof b, "%s in ", kind);
  m.failed = true;
  m.code = m.signal == SIGILL || m.signal == SIGTRAP ? 716 : 700;
  m.why = b + place(m.now);
  void *lost;
  emulate_switch(&lost, m.home);
}

struct sigaction previous[32];
const int caught[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};

void on_fault(int sig, siginfo_t *info, void *context) {
  if (m.tid == 0 || m.tid != (pid_t)syscall(SYS_gettid)) {
    struct sigaction &old = previous[sig];
    if (old.sa_flags & SA_SIGINFO) old.sa_sigaction(sig, info, context);
    else if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) old.sa_handler(sig);
    else signal(sig, SIG_DFL);
    return;
  }
  m.fault = info->si_addr;
  m.signal = sig;
  uintptr_t sp = (uintptr_t)landing_stack + sizeof landing_stack - 128;
  ucontext_t *u = (ucontext_t *)context;
#if defined(__x86_64__)
  u->uc_mcontext.gregs[REG_RSP] = (greg_t)(sp - 8);
  u->uc_mcontext.gregs[REG_RIP] = (greg_t)landing;
#else
  u->uc_mcontext.sp = sp;
  u->uc_mcontext.pc = (uintptr_t)landing;
#endif
}

}  // namespace

void catch_faults() {
  static bool done;
  if (done) return;
  done = true;
  for (int sig : caught) {
    struct sigaction a = {};
    a.sa_sigaction = on_fault;
    a.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigaction(sig, nullptr, &previous[sig]);
    a.sa_mask = previous[sig].sa_mask;
    sigaction(sig, &a, nullptr);
  }
}

Host host_services() { return Host{barrier, vote_barrier, warp, fail, print, nanoseconds, give_way}; }

int run_grid(const Launch &l, Order order, unsigned seed, std::string *why) {
  std::mt19937 random(seed);
  m.launch = &l;
  m.failed = false;
  size_t threads = (size_t)l.block.x * l.block.y * l.block.z;
  m.fibers.resize(threads);
  char *dynamic = dynamic_shared(l.dynamic);
  if (!dynamic) {
    *why = "no memory for shared memory";
    return 2;
  }
  if (order != Order::Shuffled) set_order(order, random);
  uint64_t blocks = (uint64_t)l.grid.x * l.grid.y * l.grid.z;
  uint64_t step = blocks > 2 ? random() % blocks : 1;  // shuffled blocks follow each other at this distance
  while (std::gcd(step, blocks) != 1) step++;
  m.tid = (pid_t)syscall(SYS_gettid);
  for (uint64_t n = 0; n < blocks && !m.failed; n++) {
    uint64_t b = order == Order::Reverse ? blocks - 1 - n : order == Order::Shuffled ? (uint64_t)((unsigned __int128)n * step % blocks) : n;
    Vec3 at = {(unsigned)(b % l.grid.x), (unsigned)(b / l.grid.x % l.grid.y), (unsigned)(b / l.grid.x / l.grid.y)};
    if (order == Order::Shuffled) set_order(order, random);
    memset(l.shared_from, 0xff, (size_t)(l.shared_to - l.shared_from));
    if (l.dynamic) memset(dynamic, 0xff, l.dynamic);
    for (size_t i = 0; i < threads; i++) {
      Fiber &f = m.fibers[i];
      f.state = New;
      f.predicate = 0;
      f.self.thread = {(unsigned)(i % l.block.x), (unsigned)(i / l.block.x % l.block.y), (unsigned)(i / l.block.x / l.block.y)};
      f.self.block = at, f.self.threads = l.block, f.self.blocks = l.grid, f.self.dynamic = dynamic;
    }
    run_block();
  }
  m.tid = 0;
  if (!m.failed) return 0;
  for (Fiber &f : m.fibers) {
    if (f.state == New) f.stack = nullptr;
    if (f.stack) m.stacks.push_back(f.stack);
    f.stack = nullptr;
  }
  *why = "kernel " + l.name + ": " + m.why;
  return m.code;
}
