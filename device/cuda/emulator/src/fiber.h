// The machine under the emulator: runs the threads of a block as fibers on one thread of the operating system.
#pragma once
#include <string>

struct Vec3 { unsigned x, y, z; };

// The two structs of device.h.
struct Thread {
  Vec3 thread, block, threads, blocks;
  void *dynamic;
};
struct Host {
  void (*barrier)(int id, int threads, const char *what);
  int (*vote_barrier)(int predicate, int how);
  void (*warp)(unsigned mask, void *mine, void (*all)(void **lanes, unsigned mask), const char *what);
  void (*fail)(const char *why);
  void (*print)(const char *format, __builtin_va_list);
  unsigned long long (*clock)();
  void (*give_way)();
};

struct Launch {
  std::string name;
  void (*entry)(void **args);
  void **args;
  Thread **self;                    // the module's emulate_self
  char *shared_from, *shared_to;    // its static shared memory
  Vec3 grid, block;
  size_t dynamic;                   // bytes
};

enum class Order { Forward, Reverse, Shuffled };

// run_grid runs a launch to its end and returns 0, or the code of the fault and its description. Calls must not overlap.
int run_grid(const Launch &l, Order order, unsigned seed, std::string *why);

// host_services is what modules are given.
Host host_services();

// catch_faults installs the signal handlers with which bad addresses in kernels become errors.
void catch_faults();
