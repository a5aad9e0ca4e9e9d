// Memory of the emulated device: allocations between guards, pinned memory of the host, reserved addresses, copies.
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "state.h"

using namespace emulator;

namespace {

// An allocation stands between two ranges that nobody may touch, its end at the second one. They are wide, since an index that is wrong is
// seldom wrong by one, and cost addresses only.
struct Allocation {
  char *map;
  size_t mapped, bytes;
  bool host;
};
struct Physical {
  int file;
  size_t bytes;
};

std::map<Pointer, Allocation> allocations;
std::map<Pointer, size_t> reserved, mapped;
uint64_t used;

const size_t page = 65536, guard = 4 << 20;
const uint64_t context_bytes = 512 << 20;

// place makes a block between guards.
Allocation place(size_t bytes, bool host) {
  size_t body = (bytes + page - 1) / page * page;
  char *p = (char *)mmap(nullptr, body + 2 * guard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return Allocation{};
  mprotect(p + guard, body, PROT_READ | PROT_WRITE);
  return Allocation{p, body + 2 * guard, bytes, host};
}

char *start(const Allocation &a) { return a.map + a.mapped - guard - (a.bytes + 255) / 256 * 256; }

const unsigned char canary = 0xc7, fresh = 0xff;
const size_t fresh_most = 64 << 20;  // more takes time

// damaged says whether something was written between the end of an allocation and the guard behind it.
bool damaged(const Allocation &a) {
  const unsigned char *p = (const unsigned char *)start(a);
  for (size_t i = a.bytes; i < (a.bytes + 255) / 256 * 256; i++)
    if (p[i] != canary) return true;
  return false;
}

int allocate(Pointer *out, size_t bytes, bool host) {
  if (bytes == 0) return INVALID_VALUE;
  if (!host && (bytes > settings.memory || used + bytes + context_bytes > settings.memory)) return OUT_OF_MEMORY;
  Allocation a = place(bytes, host);
  if (!a.map) return OUT_OF_MEMORY;
  char *p = start(a);
  // What a GPU hands out holds the traces of others: here NaN in every type that has it.
  if (bytes <= fresh_most) memset(p, fresh, bytes);
  memset(p + bytes, canary, (bytes + 255) / 256 * 256 - bytes);
  *out = (Pointer)p;
  allocations[*out] = a;
  if (!host) used += (bytes + 511) / 512 * 512;
  return OK;
}

int release(Pointer p, bool host) {
  auto it = allocations.find(p);
  if (it == allocations.end() || it->second.host != host) return INVALID_VALUE;
  Allocation a = it->second;
  if (damaged(a)) fault(ILLEGAL_ADDRESS, "bytes after the end of an allocation of " + std::to_string(a.bytes) + " bytes were written");
  munmap(a.map, a.mapped);
  allocations.erase(it);
  if (!host) used -= (a.bytes + 511) / 512 * 512;
  return OK;
}

// inside says whether n bytes at p are in one allocation, or in memory mapped without a gap.
bool inside(Pointer p, size_t n) {
  auto it = allocations.upper_bound(p);
  if (it != allocations.begin()) {
    --it;
    if (p + n <= it->first + it->second.bytes) return true;
  }
  auto v = mapped.upper_bound(p);
  if (v == mapped.begin()) return false;
  --v;
  Pointer end = v->first + v->second;
  if (p >= end) return false;
  while (p + n > end) {
    ++v;
    if (v == mapped.end() || v->first != end) return false;
    end += v->second;
  }
  return true;
}

}  // namespace

API cuMemGetInfo_v2(size_t *free, size_t *total) {
  ENTER_CONTEXT
  *total = settings.memory;
  *free = settings.memory > used + context_bytes ? settings.memory - used - context_bytes : 0;
  return OK;
}

API cuMemAlloc_v2(Pointer *out, size_t bytes) {
  ENTER_CONTEXT
  if (int code = forbidden()) return code;
  return allocate(out, bytes, false);
}

API cuMemFree_v2(Pointer p) {
  ENTER_CONTEXT
  if (int code = forbidden()) return code;
  finish_all();
  return p ? release(p, false) : OK;
}

API cuMemHostAlloc(void **out, size_t bytes, unsigned) {
  ENTER_CONTEXT
  if (int code = forbidden()) return code;
  return allocate((Pointer *)out, bytes, true);
}

API cuMemFreeHost(void *p) {
  ENTER_CONTEXT
  if (int code = forbidden()) return code;
  finish_all();
  return release((Pointer)p, true);
}

API cuMemHostGetDevicePointer_v2(Pointer *out, void *p, unsigned) {
  *out = (Pointer)p;
  return OK;
}

// copy checks the ranges that lie on the device. Memory of the host that is not pinned is read at the call, and written before its end.
static int copy(void *dst, const void *src, size_t n, bool check_dst, bool check_src, Stream *s) {
  ENTER_CONTEXT
  if (n == 0) return OK;
  if ((Pointer)dst < (Pointer)src + n && (Pointer)src < (Pointer)dst + n) return INVALID_VALUE;  // what a GPU does then is not defined
  bool to = inside((Pointer)dst, n), from = inside((Pointer)src, n);
  if ((check_dst && !to) || (check_src && !from)) return INVALID_VALUE;
  if (!from) {
    std::vector<char> taken((const char *)src, (const char *)src + n);
    return enqueue(s, [dst, taken] {
      memcpy(dst, taken.data(), taken.size());
      return OK;
    });
  }
  int code = enqueue(s, [=] {
    memcpy(dst, src, n);
    return OK;
  });
  if (!to) finish(s);
  return code;
}

API cuMemcpyHtoDAsync_v2(Pointer dst, const void *src, size_t n, Stream *s) { return copy((void *)dst, src, n, true, false, s); }
API cuMemcpyDtoHAsync_v2(void *dst, Pointer src, size_t n, Stream *s) { return copy(dst, (void *)src, n, false, true, s); }
API cuMemcpyAsync(Pointer dst, Pointer src, size_t n, Stream *s) { return copy((void *)dst, (void *)src, n, true, true, s); }

API cuMemsetD8Async(Pointer dst, unsigned char v, size_t n, Stream *s) {
  ENTER_CONTEXT
  if (n == 0) return OK;
  if (!inside(dst, n)) return INVALID_VALUE;
  return enqueue(s, [=] {
    memset((void *)dst, v, n);
    return OK;
  });
}

static const size_t granularity = 2 << 20;

API cuMemGetAllocationGranularity(size_t *out, const void *, int) {
  *out = granularity;
  return OK;
}

API cuMemAddressReserve(Pointer *out, size_t bytes, size_t, Pointer, uint64_t) {
  ENTER_CONTEXT
  if (bytes == 0 || bytes % granularity) return INVALID_VALUE;
  char *p = (char *)mmap(nullptr, bytes + granularity, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return OUT_OF_MEMORY;
  Pointer at = ((Pointer)p + granularity - 1) / granularity * granularity;
  if (at > (Pointer)p) munmap(p, at - (Pointer)p);
  if (size_t rest = granularity - (at - (Pointer)p)) munmap((char *)at + bytes, rest);
  reserved[at] = bytes;
  *out = at;
  return OK;
}

API cuMemAddressFree(Pointer p, size_t bytes) {
  ENTER_CONTEXT
  auto it = reserved.find(p);
  if (it == reserved.end() || it->second != bytes) return INVALID_VALUE;
  auto v = mapped.lower_bound(p);
  if (v != mapped.end() && v->first < p + bytes) return INVALID_VALUE;
  munmap((void *)p, bytes);
  reserved.erase(it);
  return OK;
}

API cuMemCreate(Physical **out, size_t bytes, const void *, uint64_t) {
  ENTER_CONTEXT
  if (bytes == 0 || bytes % granularity) return INVALID_VALUE;
  if (bytes > settings.memory || used + bytes + context_bytes > settings.memory) return OUT_OF_MEMORY;
  int f = memfd_create("device", MFD_CLOEXEC);
  if (f < 0 || ftruncate(f, (off_t)bytes) != 0) return OUT_OF_MEMORY;
  if (bytes <= fresh_most) {
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
    if (p == MAP_FAILED) return OUT_OF_MEMORY;
    memset(p, fresh, bytes);
    munmap(p, bytes);
  }
  used += bytes;
  *out = new Physical{f, bytes};
  return OK;
}

API cuMemRelease(Physical *h) {
  ENTER_CONTEXT
  close(h->file);
  used -= h->bytes;
  delete h;
  return OK;
}

API cuMemMap(Pointer p, size_t bytes, size_t offset, Physical *h, uint64_t) {
  ENTER_CONTEXT
  auto it = reserved.upper_bound(p);
  if (it == reserved.begin()) return INVALID_VALUE;
  --it;
  if (p + bytes > it->first + it->second || bytes != h->bytes || offset || p % granularity || mapped.count(p)) return INVALID_VALUE;
  if (mmap((void *)p, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, h->file, 0) == MAP_FAILED) return OUT_OF_MEMORY;
  mapped[p] = bytes;
  return OK;
}

API cuMemSetAccess(Pointer p, size_t bytes, const void *, size_t) {
  ENTER_CONTEXT
  if (!inside(p, bytes)) return INVALID_VALUE;
  return mprotect((void *)p, bytes, PROT_READ | PROT_WRITE) ? INVALID_VALUE : OK;
}

API cuMemUnmap(Pointer p, size_t bytes) {
  ENTER_CONTEXT
  if (!inside(p, bytes) || !mapped.count(p)) return INVALID_VALUE;
  mmap((void *)p, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  mapped.erase(mapped.lower_bound(p), mapped.lower_bound(p + bytes));
  return OK;
}
