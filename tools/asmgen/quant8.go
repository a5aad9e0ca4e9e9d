package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// element is how a kind of element is read.
type element struct {
	name, goType string
	size         int
	load         func(c *build.Context, src operand.Mem, v reg.VecVirtual) // widens exactly
}

var elements = []element{
	{"F32", "float32", 4, func(c *build.Context, src operand.Mem, v reg.VecVirtual) { c.VMOVUPS(src, v) }},
	{"BF16", "uint16", 2, func(c *build.Context, src operand.Mem, v reg.VecVirtual) {
		c.VPMOVZXWD(src, v)
		c.VPSLLD(operand.U8(16), v, v)
	}},
	{"F16", "uint16", 2, func(c *build.Context, src operand.Mem, v reg.VecVirtual) { c.VCVTPH2PS(src, v) }},
}

// runElements is what package quant scales and then encodes at a time. Scaling reads it from memory and encoding finds it in the cache, so
// that memory would rest meanwhile: encoders fetch the elements that are scaled next.
const runElements = 4096

// eachBlock emits the loop over blocks and, inside, over n elements in steps, and the end of the function; start begins a block.
func eachBlock(c *build.Context, label string, blocks, n reg.GPVirtual, step int, start, body func()) {
	left := c.GP64()
	c.Label(label + "Block")
	start()
	c.MOVQ(n, left)
	c.Label(label + "Loop")
	body()
	c.SUBQ(operand.U8(step), left)
	c.JNZ(operand.LabelRef(label + "Loop"))
	c.DECQ(blocks)
	c.JNZ(operand.LabelRef(label + "Block"))
	if label == "stream" {
		c.SFENCE()
	}
	c.VZEROUPPER()
	c.RET()
}

// storeBytes8 writes the low bytes of 8 lanes. Needs AVX2.
func storeBytes8(c *build.Context, y reg.VecVirtual, lowByte reg.VecVirtual, dst operand.Mem) {
	c.VPAND(lowByte, y, y)
	x := c.XMM()
	c.VEXTRACTI128(operand.U8(1), y, x)
	c.VPACKUSDW(x, y.AsX(), x)
	c.VPACKUSWB(x, x, x)
	c.VMOVQ(x, dst)
}

// encode8 emits the loop over blocks that multiplies and encodes.
func encode8(c *build.Context, level string, kind element, step int, vector func() reg.VecVirtual, body func(cells reg.GPVirtual) func(q reg.VecVirtual, dst operand.Mem)) {
	begin(c, "encode8"+kind.name+level, fmt.Sprintf("func(blocks int, n int, codes *byte, x *%s, r *float32, cells *uint32)", kind.goType),
		fmt.Sprintf("encode8%s%s writes the codes of x[b*n+i]*r[b] for b < blocks and i < n; n is a multiple of %d and neither is 0.", kind.name, level, step),
		"cells is the table of a code book (Cells).")
	blocks, n, codes, x, r := param(c, "blocks"), param(c, "n"), param(c, "codes"), param(c, "x"), param(c, "r")
	put := body(param(c, "cells"))
	scale := vector()
	eachBlock(c, "encode", blocks, n, step, func() {
		c.VBROADCASTSS(at(r, 0), scale)
		c.ADDQ(operand.U8(4), r)
	}, func() {
		q := vector()
		kind.load(c, at(x, 0), q)
		c.PREFETCHT0(at(x, runElements*kind.size))
		c.VMULPS(scale, q, q)
		put(q, at(codes, 0))
		c.ADDQ(operand.U8(step*kind.size), x)
		c.ADDQ(operand.U8(step), codes)
	})
}

func encode8AVX512(c *build.Context) {
	for _, k := range elements {
		encode8(c, "AVX512", k, 16, c.ZMM, func(cells reg.GPVirtual) func(reg.VecVirtual, operand.Mem) {
			e := newEncoder8AVX512(c, cells)
			return func(q reg.VecVirtual, dst operand.Mem) { c.VPMOVDB(e.avx512(q), dst) }
		})
	}
}

func encode8AVX2(c *build.Context) {
	for _, k := range elements {
		encode8(c, "AVX2", k, 8, c.YMM, func(cells reg.GPVirtual) func(reg.VecVirtual, operand.Mem) {
			e, lowByte := encoder8{c: c, cells: cells}, c.YMM()
			broadcastBits(c, 0xff, lowByte)
			return func(q reg.VecVirtual, dst operand.Mem) { storeBytes8(c, e.avx2(q), lowByte, dst) }
		})
	}
}

// rounder narrows float32 to a kind of element, to nearest with ties to even, and stores it. Without careForNaN no NaN must become a
// bfloat16.
type rounder struct {
	c                *build.Context
	kind             string
	bit, half, quiet reg.VecVirtual // 1, 0x7fff and 0x40, for bfloat16
}

func (r *rounder) careForNaN(vector func() reg.VecVirtual) {
	if r.kind == "BF16" {
		r.quiet = vector()
		broadcastBits(r.c, 0x40, r.quiet)
	}
}

func newRounder(c *build.Context, kind string, vector func() reg.VecVirtual) rounder {
	r := rounder{c: c, kind: kind}
	if kind == "BF16" {
		r.bit, r.half = vector(), vector()
		broadcastBits(c, 1, r.bit)
		broadcastBits(c, 0x7fff, r.half)
	}
	return r
}

// bf16 leaves the bfloat16 in the lower half of each lane.
func (r rounder) bf16(v reg.VecVirtual, vector func() reg.VecVirtual) {
	c, upper, t := r.c, vector(), vector()
	c.VPSRLD(operand.U8(16), v, upper)
	and(c, r.bit, upper, t)
	c.VPADDD(r.half, t, t)
	c.VPADDD(v, t, t)
	c.VPSRLD(operand.U8(16), t, t)
	switch {
	case r.quiet == nil:
		r.move(t, v)
	case v.Size() == 64:
		nan := c.K()
		c.VCMPPS(operand.U8(3), v, v, nan)
		c.VPORD(r.quiet, upper, nan, t)
		r.move(t, v)
	default:
		c.VCMPPS(operand.U8(3), v, v, v) // ones where it is NaN
		c.VPOR(r.quiet, upper, upper)
		c.VBLENDVPS(v, upper, t, v)
	}
}

func (r rounder) move(from, to reg.VecVirtual) {
	if to.Size() == 64 {
		r.c.VMOVDQA32(from, to)
	} else {
		r.c.VMOVDQA(from, to)
	}
}

// store writes all lanes of v, past the caches if stream is set; then dst must be aligned to what is written.
func (r rounder) store(v reg.VecVirtual, dst operand.Mem, stream bool) {
	c, wide := r.c, v.Size() == 64
	narrow := c.XMM
	if wide {
		narrow = c.YMM
	}
	var h reg.VecVirtual
	switch r.kind {
	case "F32":
		if stream {
			c.VMOVNTPS(v, dst)
		} else {
			c.VMOVUPS(v, dst)
		}
		return
	case "F16":
		h = narrow()
		c.VCVTPS2PH(operand.U8(0), v, h)
	case "BF16":
		h = narrow()
		if wide {
			r.bf16(v, c.ZMM)
			c.VPMOVDW(v, h)
		} else {
			r.bf16(v, c.YMM)
			c.VEXTRACTI128(operand.U8(1), v, h)
			c.VPACKUSDW(h, v.AsX(), h)
		}
	}
	switch {
	case stream:
		c.VMOVNTDQ(h, dst)
	case wide:
		c.VMOVDQU32(h, dst)
	default:
		c.VMOVDQU(h, dst)
	}
}

// decode8 emits the loop over blocks that decodes, scales and rounds. body decodes step codes and stores them times scale.
func decode8(c *build.Context, level string, kind element, step int, needs string, vector func() reg.VecVirtual,
	body func(table reg.GPVirtual) func(codes reg.GPVirtual, scale reg.VecVirtual, dst reg.GPVirtual, stream bool)) {
	name := "decode8" + kind.name + level
	begin(c, name, fmt.Sprintf("func(blocks int, n int, dst *%s, codes *byte, absmax *float32, table *%s, stream bool)", kind.goType, needs),
		name+" writes the value of codes[b*n+i] in table times absmax[b], which must be finite, for b < blocks and i < n;",
		fmt.Sprintf("n is a multiple of %d and neither is 0. With stream, and dst aligned to 64 bytes, it is written past the caches.", step))
	blocks, n, dst, codes, absmax := param(c, "blocks"), param(c, "n"), param(c, "dst"), param(c, "codes"), param(c, "absmax")
	put, scale := body(param(c, "table")), vector()
	flag, offset := c.GP32(), c.GP64()
	c.Load(c.Param("stream"), flag.As8())
	c.TESTB(flag.As8(), flag.As8())
	c.JZ(operand.LabelRef("cachedBlock"))
	c.MOVQ(dst, offset)
	c.ANDQ(operand.U8(63), offset)
	c.JZ(operand.LabelRef("streamBlock"))
	for _, label := range []string{"cached", "stream"} {
		eachBlock(c, label, blocks, n, step, func() {
			c.VBROADCASTSS(at(absmax, 0), scale)
			c.ADDQ(operand.U8(4), absmax)
		}, func() {
			put(codes, scale, dst, label == "stream")
			c.ADDQ(operand.I32(step*kind.size), dst)
			c.ADDQ(operand.U8(step), codes)
		})
	}
}

func decode8VBMI(c *build.Context) {
	for _, kind := range elements {
		decode8(c, "VBMI", kind, 64, "byte", c.ZMM, func(table reg.GPVirtual) func(reg.GPVirtual, reg.VecVirtual, reg.GPVirtual, bool) {
			order := decodeInOrder
			if kind.name == "BF16" {
				order = decodeForPack
			}
			d, r := newDecoder8(c, table, order, "decode8Order"+kind.name, true), newRounder(c, kind.name, c.ZMM)
			return func(codes reg.GPVirtual, scale reg.VecVirtual, dst reg.GPVirtual, stream bool) {
				v := d.vbmi(at(codes, 0))
				for i := range v {
					c.VMULPS(scale, v[i], v[i])
					if kind.name != "BF16" {
						r.store(v[i], at(dst, 16*i*kind.size), stream)
						continue
					}
					r.bf16(v[i], c.ZMM)
					if i%2 == 0 {
						continue
					}
					c.VPACKUSDW(v[i], v[i-1], v[i])
					if to := at(dst, 32*(i-1)); stream {
						c.VMOVNTDQ(v[i], to)
					} else {
						c.VMOVDQU32(v[i], to)
					}
				}
			}
		})
	}
}

func decode8AVX512(c *build.Context) {
	for _, kind := range elements {
		decode8(c, "AVX512", kind, 16, "float32", c.ZMM, func(table reg.GPVirtual) func(reg.GPVirtual, reg.VecVirtual, reg.GPVirtual, bool) {
			ones, r := c.K(), newRounder(c, kind.name, c.ZMM)
			c.KXNORW(ones, ones, ones)
			return func(codes reg.GPVirtual, scale reg.VecVirtual, dst reg.GPVirtual, stream bool) {
				v := decode8Gather(c, at(codes, 0), table, ones, c.ZMM)
				c.VMULPS(scale, v, v)
				r.store(v, at(dst, 0), stream)
			}
		})
	}
}

func decode8AVX2(c *build.Context) {
	for _, kind := range elements {
		decode8(c, "AVX2", kind, 8, "float32", c.YMM, func(table reg.GPVirtual) func(reg.GPVirtual, reg.VecVirtual, reg.GPVirtual, bool) {
			r := newRounder(c, kind.name, c.YMM)
			return func(codes reg.GPVirtual, scale reg.VecVirtual, dst reg.GPVirtual, stream bool) {
				v := decode8Gather(c, at(codes, 0), table, nil, c.YMM)
				c.VMULPS(scale, v, v)
				r.store(v, at(dst, 0), stream)
			}
		})
	}
}
