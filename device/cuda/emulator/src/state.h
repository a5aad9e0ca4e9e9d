// What the files of the emulator's libcuda share.
#pragma once
#include <stdint.h>

#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "fiber.h"

#define API extern "C" __attribute__((visibility("default"))) int

namespace emulator {

enum {
  OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, INVALID_HANDLE = 400,
  NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700, LAUNCH_OUT_OF_RESOURCES = 701, MISALIGNED = 716, LAUNCH_FAILED = 719,
  CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURE_MERGE = 902, CAPTURE_UNMATCHED = 903, CAPTURE_UNJOINED = 904,
  CAPTURE_ISOLATION = 905, CAPTURED_EVENT = 907, CAPTURE_WRONG_THREAD = 908,
};

typedef uint64_t Pointer;

struct Stream;  // in stream.cpp

struct Settings {
  int capability = 90, processors = 8, sticky = 0, devices = 1;
  uint64_t memory = 85045149696u;
  Order order = Order::Forward;
  unsigned seed = 1;
};

extern Settings settings;
extern std::recursive_mutex lock;  // over everything
extern bool initialized;
extern int contexts;                 // how often the primary context is retained
extern thread_local void *current;   // the thread's context, or null
extern int pending;                  // the code of a fault that was not reported yet

// fault keeps an error for the next call that waits for the device.
int fault(int code, const std::string &why);

// reported is the fault that waits to be told, once unless errors are sticky as those of a GPU are.
int reported();

// set_streams reads the setting streams.
void set_streams(const std::string &value);

// enqueue puts work at the end of a stream, or into the graph that the stream is captured into.
int enqueue(Stream *s, std::function<int()> work);

// finish does the work of a stream that is not being captured, finish_all that of all.
void finish(Stream *s);
void finish_all();

// forbidden spoils the captures that watch for calls, of this thread or of any, which can not be captured.
int forbidden();

}  // namespace emulator

#define ENTER                                                   \
  std::lock_guard<std::recursive_mutex> guard(lock);            \
  if (!initialized) return NOT_INITIALIZED;
#define ENTER_CONTEXT                                           \
  ENTER                                                         \
  if (!current || contexts == 0) return INVALID_CONTEXT;        \
  if (settings.sticky && pending) return pending;
