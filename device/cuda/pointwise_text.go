package cuda

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// elementType is the name of the elements of a dtype in kernels/pointwise.cuh: unlike cType, bool is C's.
func elementType(d tensor.DType) string { return d.String() }

// valueClass is the arithmetic that elements of a dtype are computed in, as a dtype: float32 for the halves, 64 bits for integers.
func valueClass(d tensor.DType) tensor.DType {
	switch d {
	case tensor.F16, tensor.BF16:
		return tensor.F32
	case tensor.F32, tensor.F64, tensor.Bool, tensor.U64:
		return d
	}
	return tensor.I64
}

// text is the source of a chain. It holds no extents and no immediates, so that equal chains of other shapes are the same program.
func (c *chain) text() string {
	var b strings.Builder
	c.functions(&b)
	fmt.Fprintf(&b, "enum { N = %d, U = %d, R = %d };\n", c.n, c.packs, len(c.dims))
	c.parameters(&b)
	for i, o := range c.inputs {
		if o.access == scalar {
			fmt.Fprintf(&b, "  const %s s%d = wide(x%d[0]);\n", elementType(valueClass(o.typ.DType)), i, i)
		}
	}
	b.WriteString("  for (i64 tile = (i64)blockIdx.x * blockDim.x * (N * U); tile < n; tile += (i64)gridDim.x * blockDim.x * (N * U)) {\n")
	b.WriteString("    const i64 first = tile + threadIdx.x * N;\n")
	b.WriteString("    const bool full = aligned && tile + (i64)blockDim.x * (N * U) <= n;\n")
	c.loads(&b)
	b.WriteString("#pragma unroll\n    for (int u = 0; u < U; u++) {\n")
	b.WriteString("      const i64 at = first + (i64)u * blockDim.x * N;\n")
	c.compute(&b)
	for k, t := range c.outs {
		if typ := elementType(t.DType); paired(t.DType) {
			fmt.Fprintf(&b, "      if (full) store_pairs<N>(y%d + at, h%d);\n      else some_put(y%d, at, n, of_pairs<%s, N>(h%d));\n", k, c.result[k], k, typ, c.result[k])
		} else {
			fmt.Fprintf(&b, "      const Pack<%s, N> q%d = Trim<%s>::pack<N>(v%d);\n", typ, k, typ, c.result[k])
			fmt.Fprintf(&b, "      if (full) store_pack(y%d + at, q%d);\n      else some_put(y%d, at, n, q%d);\n", k, k, k, k)
		}
	}
	b.WriteString("    }\n  }\n}\n")
	return b.String()
}

// functions defines the functions of the table that the chain uses, for each arithmetic.
func (c *chain) functions(b *strings.Builder) {
	type key struct {
		class tensor.DType
		fn    ops.Func
	}
	var keys []key
	for i := range c.instrs {
		in := &c.instrs[i]
		k := key{c.computeClass(in), in.fn}
		if in.fn != ops.FnFill && in.fn != ops.FnCast && !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(x, y key) int { return int(x.class)*256 + int(x.fn) - int(y.class)*256 - int(y.fn) })
	for i, k := range keys {
		if i == 0 || keys[i-1].class != k.class {
			b.WriteString(ops.CPreamble(k.class))
		}
		row := &ops.Table[k.fn]
		result, params := elementType(k.class), []string{}
		if row.Predicate {
			result = "bool"
		}
		for j, name := range []string{"a", "b", "c"}[:row.Arity] {
			typ := elementType(k.class)
			if k.fn == ops.FnWhere && j == 0 {
				typ = "bool"
			}
			params = append(params, typ+" "+name)
		}
		fmt.Fprintf(b, "INLINE %s %s(%s) { return %s; }\n", result, functionName(k.fn, k.class), strings.Join(params, ", "), row.C)
		if i == len(keys)-1 || keys[i+1].class != k.class {
			b.WriteString(ops.CUndef)
		}
	}
}

func functionName(fn ops.Func, class tensor.DType) string {
	return "fn_" + ops.Table[fn].Name + "_" + class.String()
}

// computeClass is the arithmetic of the operands that carry the numbers.
func (c *chain) computeClass(in *instr) tensor.DType {
	switch {
	case in.fn == ops.FnFill || in.fn == ops.FnWhere:
		return valueClass(in.typ)
	}
	return valueClass(c.typeOf(in.args[0]))
}

func (c *chain) typeOf(v int) tensor.DType {
	if v < len(c.inputs) {
		return c.inputs[v].typ.DType
	}
	return c.instrs[v-len(c.inputs)].typ
}

// parameters is the head of the kernel: count, whether operands are aligned, outputs, inputs, how they are walked to, immediates.
func (c *chain) parameters(b *strings.Builder) {
	b.WriteString("KERNEL chain(i64 n, i32 aligned")
	for k, t := range c.outs {
		fmt.Fprintf(b, ", %s *y%d", elementType(t.DType), k)
	}
	for i, o := range c.inputs {
		fmt.Fprintf(b, ", const %s *x%d", elementType(o.typ.DType), i)
	}
	if c.walks() {
		b.WriteString(", Axes axes")
	}
	for i, o := range c.inputs {
		if o.access > scalar {
			fmt.Fprintf(b, ", Steps w%d", i)
		}
	}
	for i, in := range c.instrs {
		if in.fn == ops.FnFill {
			class := valueClass(in.typ)
			if class == tensor.Bool {
				class = tensor.I64
			}
			fmt.Fprintf(b, ", %s k%d", elementType(class), i)
		}
	}
	b.WriteString(") {\n")
}

// loads reads what the thread's packs need before anything is computed, so that several reads are under way.
func (c *chain) loads(b *strings.Builder) {
	var full, part strings.Builder
	for i, o := range c.inputs {
		typ := elementType(o.typ.DType)
		pack, load, of := fmt.Sprintf("Pack<%s, N>", typ), "load_pack", ""
		if paired(o.typ.DType) {
			pack, load, of = "Pack<u32, N / 2>", "load_pairs", "to_pairs"
		}
		switch o.access {
		case scalar:
			continue
		case whole:
			fmt.Fprintf(&full, "p%d[u] = %s<N>(x%d + at); ", i, load, i)
			fmt.Fprintf(&part, "p%d[u] = %s(some<N>(x%d, at, n)); ", i, of, i)
		case packed:
			fmt.Fprintf(&full, "p%d[u] = %s<N>(x%d + walk<R>(axes, w%d, at)); ", i, load, i, i)
			fmt.Fprintf(&part, "if (at < n) p%d[u] = %s(some<N>(x%d + walk<R>(axes, w%d, at), 0, N)); ", i, of, i, i)
		case shared:
			fmt.Fprintf(b, "    %s p%d[U];\n", typ, i)
			fmt.Fprintf(&full, "p%d[u] = x%d[walk<R>(axes, w%d, at)]; ", i, i, i)
			fmt.Fprintf(&part, "if (at < n) p%d[u] = x%d[walk<R>(axes, w%d, at)]; ", i, i, i)
			continue
		case strewn:
			fmt.Fprintf(&full, "p%d[u] = %s(strewn<N, R>(x%d, axes, w%d, at, n)); ", i, of, i, i)
			fmt.Fprintf(&part, "p%d[u] = %s(strewn<N, R>(x%d, axes, w%d, at, n)); ", i, of, i, i)
		}
		fmt.Fprintf(b, "    %s p%d[U];\n", pack, i)
	}
	if full.Len() == 0 {
		return
	}
	const each = "#pragma unroll\n      for (int u = 0; u < U; u++) { const i64 at = first + (i64)u * blockDim.x * N; %s}\n"
	b.WriteString("    if (full) {\n")
	fmt.Fprintf(b, each, full.String())
	b.WriteString("    } else {\n")
	fmt.Fprintf(b, each, part.String())
	b.WriteString("    }\n")
}

// compute is the chain itself, on N elements at a time; each intermediate is rounded to its type. Values of 16 bits are words h of two and, for functions
// that want floats, v.
func (c *chain) compute(b *strings.Builder) {
	for i, o := range c.inputs {
		class, typ := elementType(valueClass(o.typ.DType)), elementType(o.typ.DType)
		switch {
		case o.access == scalar:
		case o.access == shared:
			fmt.Fprintf(b, "      const %s s%d = wide(p%d[u]);\n", class, i, i)
		case paired(o.typ.DType):
			fmt.Fprintf(b, "      u32 h%d[N / 2]; PAIR h%d[i] = p%d[u].v[i];\n", i, i, i)
			widenPairs(b, i, typ)
		default:
			fmt.Fprintf(b, "      %s v%d[N]; EACH v%d[j] = wide(p%d[u].v[j]);\n", class, i, i, i)
		}
	}
	for i := range c.instrs {
		if v := len(c.inputs) + i; c.instrs[i].fn != ops.FnFill || slices.Contains(c.result, v) {
			c.instruction(b, i, v)
		}
	}
}

// instruction is instruction i, whose value is number v.
func (c *chain) instruction(b *strings.Builder, i, v int) {
	in := &c.instrs[i]
	typ, class := elementType(in.typ), elementType(valueClass(in.typ))
	if name, ok := pairFunctions[in.fn]; ok && paired(in.typ) && !slices.ContainsFunc(in.args, func(a int) bool { return c.typeOf(a) != in.typ }) {
		fmt.Fprintf(b, "      u32 h%d[N / 2]; PAIR h%d[i] = %s<%s>(%s, %s);\n", v, v, name, typ, c.pair(in.args[0]), c.pair(in.args[1]))
		widenPairs(b, v, typ)
		return
	}
	to := "v"
	if paired(in.typ) {
		to = "r" // not yet rounded
	}
	fmt.Fprintf(b, "      %s %s%d[N]; ", class, to, v)
	if name, ok := laneFunctions[in.fn]; ok && c.computeClass(in) == tensor.F32 && c.operand(in.args[0]) == fmt.Sprintf("v%d[j]", in.args[0]) {
		fmt.Fprintf(b, "%s(%s%d, v%d);\n", name, to, v, in.args[0])
	} else {
		fmt.Fprintf(b, "EACH %s%d[j] = %s;\n", to, v, c.expression(i))
	}
	switch {
	case paired(in.typ):
		fmt.Fprintf(b, "      u32 h%d[N / 2]; round_pairs<%s, N>(h%d, r%d);\n", v, typ, v, v)
		widenPairs(b, v, typ)
	case i < len(c.instrs)-1 && in.typ != valueClass(in.typ):
		fmt.Fprintf(b, "      Trim<%s>::all<N>(v%d);\n", typ, v)
	}
}

// pairFunctions compute on words of two values of 16 bits, laneFunctions on the N values of a thread: see kernels/pointwise.cuh.
var (
	pairFunctions = map[ops.Func]string{ops.FnAdd: "add_pair", ops.FnSub: "sub_pair", ops.FnMul: "mul_pair"}
	laneFunctions = map[ops.Func]string{ops.FnSigmoid: "logistic_all<false, N>", ops.FnSiLU: "logistic_all<true, N>"}
)

// paired is whether values are kept two to a word.
func paired(d tensor.DType) bool { return d == tensor.BF16 || d == tensor.F16 }

func widenPairs(b *strings.Builder, v int, typ string) {
	fmt.Fprintf(b, "      f32 v%d[N]; widen_pairs<%s, N>(v%d, h%d);\n", v, typ, v, v)
}

// pair is how word i of value v, which has 16 bits, is referred to.
func (c *chain) pair(v int) string {
	if x := c.operand(v); x != fmt.Sprintf("v%d[j]", v) {
		return fmt.Sprintf("twice<%s>(%s)", elementType(c.typeOf(v)), x)
	}
	return fmt.Sprintf("h%d[i]", v)
}

// expression is what instruction i computes for element j.
func (c *chain) expression(i int) string {
	in := &c.instrs[i]
	switch in.fn {
	case ops.FnFill:
		return c.operand(len(c.inputs) + i)
	case ops.FnCast:
		return fmt.Sprintf("to<%s>(%s)", elementType(in.typ), c.operand(in.args[0]))
	}
	args := make([]string, len(in.args))
	for j, a := range in.args {
		args[j] = c.operand(a)
	}
	return fmt.Sprintf("%s(%s)", functionName(in.fn, c.computeClass(in)), strings.Join(args, ", "))
}

// operand is how value v is referred to for element j.
func (c *chain) operand(v int) string {
	switch {
	case v >= len(c.inputs) && c.instrs[v-len(c.inputs)].fn == ops.FnFill:
		k := fmt.Sprintf("k%d", v-len(c.inputs))
		if c.instrs[v-len(c.inputs)].typ == tensor.Bool {
			return "(" + k + " != 0)"
		}
		return k
	case v < len(c.inputs) && (c.inputs[v].access == scalar || c.inputs[v].access == shared):
		return fmt.Sprintf("s%d", v)
	}
	return fmt.Sprintf("v%d[j]", v)
}
