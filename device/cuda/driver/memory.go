package driver

import (
	"encoding/binary"
	"errors"
	"unsafe"
)

// Memory is the free and the total memory of the current context's device in bytes.
func (a *API) Memory() (free, total int64, err error) {
	var f, t uint64
	err = a.check("cuMemGetInfo", a.c.MemInfo.Call(uintptr(unsafe.Pointer(&f)), uintptr(unsafe.Pointer(&t))))
	return int64(f), int64(t), err
}

// Alloc reserves device memory, aligned to 256 bytes, with whatever is in it.
func (a *API) Alloc(bytes int64) (Addr, error) {
	var p uint64
	err := a.check("cuMemAlloc", a.c.MemAlloc.Call(uintptr(unsafe.Pointer(&p)), uintptr(bytes)))
	return Addr(p), err
}

// Free returns memory of Alloc; it waits for work of the device.
func (a *API) Free(p Addr) error { return a.check("cuMemFree", a.c.MemFree.Call(uintptr(p))) }

// AllocHost reserves pinned host memory that the device can use; host is its address here, dev its address there.
func (a *API) AllocHost(bytes int64) (host uintptr, dev Addr, err error) {
	const portableAndMapped = 3
	if err := a.check("cuMemHostAlloc", a.c.HostAlloc.Call(uintptr(unsafe.Pointer(&host)), uintptr(bytes), portableAndMapped)); err != nil {
		return 0, 0, err
	}
	var p uint64
	err = a.check("cuMemHostGetDevicePointer", a.c.HostPointer.Call(uintptr(unsafe.Pointer(&p)), host, 0))
	if err != nil {
		return 0, 0, err
	}
	return host, Addr(p), nil
}

// FreeHostMemory returns memory of AllocHost.
func (a *API) FreeHostMemory(host uintptr) error {
	return a.check("cuMemFreeHost", a.c.FreeHost.Call(host))
}

// Upload enqueues a copy from pinned host memory.
func (a *API) Upload(dst Addr, src uintptr, n int64, s Stream) error {
	return a.check("cuMemcpyHtoDAsync", a.c.CopyToDevice.Call(uintptr(dst), src, uintptr(n), uintptr(s)))
}

// Download enqueues a copy to pinned host memory.
func (a *API) Download(dst uintptr, src Addr, n int64, s Stream) error {
	return a.check("cuMemcpyDtoHAsync", a.c.CopyToHost.Call(dst, uintptr(src), uintptr(n), uintptr(s)))
}

// CopyAny enqueues a copy whose direction follows from the addresses, for pinned host memory under its device address.
func (a *API) CopyAny(dst, src Addr, n int64, s Stream) error {
	return a.check("cuMemcpyAsync", a.c.Copy.Call(uintptr(dst), uintptr(src), uintptr(n), uintptr(s)))
}

// Set enqueues filling n bytes with a value.
func (a *API) Set(dst Addr, value byte, n int64, s Stream) error {
	return a.check("cuMemsetD8Async", a.c.Memset8.Call(uintptr(dst), uintptr(value), uintptr(n), uintptr(s)))
}

// allocationProp is CUmemAllocationProp for pinned memory of a device: type 1 at byte 0, location type 1 at 8, its number at 12.
func allocationProp(d Device) []byte {
	b := make([]byte, 32)
	binary.NativeEndian.PutUint32(b, 1)
	binary.NativeEndian.PutUint32(b[8:], 1)
	binary.NativeEndian.PutUint32(b[12:], uint32(d))
	return b
}

// PageSize is the recommended granularity of Create and Reserve.
func (a *API) PageSize(d Device) (int64, error) {
	prop := allocationProp(d)
	var n uint64
	const recommended = 1
	err := a.check("cuMemGetAllocationGranularity", a.c.Granularity.Call(uintptr(unsafe.Pointer(&n)), uintptr(unsafe.Pointer(&prop[0])), recommended))
	return int64(n), err
}

// Reserve takes a range of addresses without memory. The size is a multiple of PageSize.
func (a *API) Reserve(bytes int64) (Addr, error) {
	var p uint64
	err := a.check("cuMemAddressReserve", a.c.AddrReserve.Call(uintptr(unsafe.Pointer(&p)), uintptr(bytes), 0, 0, 0))
	return Addr(p), err
}

// Unreserve returns a range whose memory is unmapped.
func (a *API) Unreserve(p Addr, bytes int64) error {
	return a.check("cuMemAddressFree", a.c.AddrFree.Call(uintptr(p), uintptr(bytes)))
}

// Create takes memory without an address.
func (a *API) Create(d Device, bytes int64) (Physical, error) {
	prop := allocationProp(d)
	var h uint64
	err := a.check("cuMemCreate", a.c.MemCreate.Call(uintptr(unsafe.Pointer(&h)), uintptr(bytes), uintptr(unsafe.Pointer(&prop[0])), 0))
	return Physical(h), err
}

// ReleaseMemory returns memory of Create once it is unmapped.
func (a *API) ReleaseMemory(h Physical) error {
	return a.check("cuMemRelease", a.c.MemRelease.Call(uintptr(h)))
}

// Map gives a part of a reserved range memory that its device may read and write. After an error nothing is mapped.
func (a *API) Map(d Device, at Addr, bytes int64, h Physical) error {
	if err := a.check("cuMemMap", a.c.MemMap.Call(uintptr(at), uintptr(bytes), 0, uintptr(h), 0)); err != nil {
		return err
	}
	access := make([]byte, 12) // CUmemAccessDesc: location type 1, the device, read and write
	binary.NativeEndian.PutUint32(access, 1)
	binary.NativeEndian.PutUint32(access[4:], uint32(d))
	binary.NativeEndian.PutUint32(access[8:], 3)
	if err := a.check("cuMemSetAccess", a.c.MemSetAccess.Call(uintptr(at), uintptr(bytes), uintptr(unsafe.Pointer(&access[0])), 1)); err != nil {
		return errors.Join(err, a.Unmap(at, bytes))
	}
	return nil
}

// Unmap takes the memory of a part away. Nothing checks that no work uses it.
func (a *API) Unmap(at Addr, bytes int64) error {
	return a.check("cuMemUnmap", a.c.MemUnmap.Call(uintptr(at), uintptr(bytes)))
}
