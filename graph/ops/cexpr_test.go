package ops_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// cKind is one arithmetic type of the table in C.
type cKind struct {
	name, ctype string
	dtype       tensor.DType
	uses        func(r *ops.Row) bool
}

var cKinds = []cKind{
	{"f32", "float", tensor.F32, func(r *ops.Row) bool { return r.F64 != nil && r.Accepts != ops.Bools }},
	{"f64", "double", tensor.F64, func(r *ops.Row) bool { return r.F64 != nil && r.Accepts != ops.Bools }},
	{"int", "long long", tensor.I64, func(r *ops.Row) bool { return r.I64 != nil }},
}

// TestCExpressions compiles the C column of the table with the system's compiler and compares it with the Go columns on edge
// and random operands. It is skipped where there is no compiler, unless BYES_REQUIRE_CC is 1.
func TestCExpressions(t *testing.T) {
	cc := compiler(t)
	for _, k := range cKinds {
		t.Run(k.name, func(t *testing.T) {
			rows := cRows(k)
			in := cOperands(k)
			out := runC(t, cc, cProgram(k, rows), in)
			n := len(in) / 3
			require.Len(t, out, n*len(rows))
			for i, r := range rows {
				checkRow(t, k, r, in, out[i*n:(i+1)*n])
			}
			t.Logf("%d rows, %d operands each", len(rows), n)
		})
	}
}

func compiler(t *testing.T) string {
	for _, name := range []string{os.Getenv("CC"), "cc", "gcc", "clang"} {
		if name == "" {
			continue
		}
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("BYES_REQUIRE_CC") == "1" {
		t.Fatal("BYES_REQUIRE_CC=1 and there is no C compiler")
	}
	t.Skip("no C compiler: the C expressions of the pointwise table are not checked")
	return ""
}

func cRows(k cKind) []*ops.Row {
	var rows []*ops.Row
	for i := range ops.Table {
		if r := &ops.Table[i]; r.C != "" && k.uses(r) {
			rows = append(rows, r)
		}
	}
	return rows
}

// cProgram reads triples of operands of one type and writes each row's results in turn.
func cProgram(k cKind, rows []*ops.Row) string {
	var b strings.Builder
	b.WriteString("#include <math.h>\n#include <stdio.h>\n#include <stdlib.h>\n" + ops.CPreamble(k.dtype))
	for i, r := range rows {
		fmt.Fprintf(&b, "static %s f%d(%s a, %s b, %s c) { (void)a; (void)b; (void)c; return %s; } /* %s */\n", k.ctype, i, k.ctype, k.ctype, k.ctype, r.C, r.Name)
	}
	b.WriteString(ops.CUndef)
	fmt.Fprintf(&b, "typedef %s T;\ntypedef T (*F)(T, T, T);\nstatic F fs[] = {", k.ctype)
	for i := range rows {
		fmt.Fprintf(&b, "f%d, ", i)
	}
	fmt.Fprintf(&b, `};
int main(void) {
	static T x[1 << 18];
	size_t n = fread(x, sizeof(T), 1 << 18, stdin) / 3;
	for (int i = 0; i < %d; i++)
		for (size_t j = 0; j < n; j++) {
			T y = fs[i](x[3*j], x[3*j+1], x[3*j+2]);
			fwrite(&y, sizeof y, 1, stdout);
		}
	return 0;
}
`, len(rows))
	return b.String()
}

// cOperands are flat triples: every combination of edges for the first two, then random ones.
func cOperands(k cKind) []float64 {
	rng := rand.New(rand.NewPCG(1, 2))
	edges := []float64{0, 1, -1, 2, -2, 0.5, 3, -7, 1e-3, 20, -20, 87, -87, 1e10, -1e10}
	if k.dtype.IsFloat() {
		edges = append(edges, math.Inf(1), math.Inf(-1), math.NaN(), math.Copysign(0, -1), 1e-30, 89, 1e30)
	}
	var out []float64
	for i, a := range edges {
		for j, b := range edges {
			out = append(out, a, b, edges[(i+j)%len(edges)])
		}
	}
	for range 2000 {
		for range 3 {
			out = append(out, rng.NormFloat64()*math.Pow(10, float64(rng.IntN(4)-1)))
		}
	}
	for i, x := range out { // exactly what the type holds
		switch k.dtype {
		case tensor.F32:
			out[i] = float64(float32(x))
		case tensor.I64:
			out[i] = math.Trunc(x)
		}
	}
	return out
}

func runC(t *testing.T, cc, source string, in []float64) []float64 {
	t.Helper()
	dir := t.TempDir()
	src, bin := filepath.Join(dir, "table.c"), filepath.Join(dir, "table")
	require.NoError(t, os.WriteFile(src, []byte(source), 0o600))
	msg, err := exec.Command(cc, "-O1", "-Wall", "-Wno-tautological-compare", "-fwrapv", "-ffp-contract=off", "-o", bin, src, "-lm").CombinedOutput()
	require.NoError(t, err, "%s\n%s", msg, source)
	require.Empty(t, string(msg), "the compiler warns")
	typ := dtypeOfProgram(source)
	cmd := exec.Command(bin)
	cmd.Stdin = bytes.NewReader(tensorOf(typ, in).Bytes())
	raw, err := cmd.Output()
	require.NoError(t, err)
	res, err := tensor.FromBytes(tensor.T(typ, len(raw)/typ.Size()), raw)
	require.NoError(t, err)
	out := make([]float64, res.Type().Size())
	for i := range out {
		out[i] = res.At(i)
	}
	return out
}

func dtypeOfProgram(source string) tensor.DType {
	for _, k := range cKinds {
		if strings.Contains(source, "typedef "+k.ctype+" T;") {
			return k.dtype
		}
	}
	return tensor.Invalid
}

func tensorOf(d tensor.DType, x []float64) *tensor.Tensor {
	t := tensor.New(tensor.T(d, len(x)))
	for i, v := range x {
		t.Set(i, v)
	}
	return t
}

func checkRow(t *testing.T, k cKind, r *ops.Row, in, got []float64) {
	t.Helper()
	want := make([]float64, len(got))
	for j := range want {
		want[j] = inGo(k, r, in[3*j], in[3*j+1], in[3*j+2])
	}
	rel, abs := 0.0, 0.0
	switch k.dtype {
	case tensor.F32:
		rel, abs = 2e-6, 2e-38 // Exp32 flushes denormals
		if r.Name == "gelu" || r.Name == "gelu_tanh" || r.Name == "erf" {
			abs = 2e-6 // 1 + erf(x) cancels for negative x; Go computes it in double
		}
	case tensor.F64:
		rel, abs = 1e-13, 1e-15
	}
	isBool := func(x float64) bool { return x == 0 || x == 1 }
	for j, g := range got {
		if r.Accepts == ops.Bools && !(isBool(in[3*j]) && isBool(in[3*j+1])) {
			continue
		}
		w := want[j]
		if g == w || math.IsNaN(g) && math.IsNaN(w) || math.Abs(g-w) <= rel*math.Abs(w)+abs {
			continue
		}
		require.Failf(t, r.Name, "%s(%v, %v, %v): C gives %v, Go %v", r.C, in[3*j], in[3*j+1], in[3*j+2], g, w)
	}
}

// inGo computes one row as the table's Go column for the type does.
func inGo(k cKind, r *ops.Row, a, b, c float64) float64 {
	switch {
	case k.dtype == tensor.I64:
		return float64(r.I64(int64(a), int64(b), int64(c)))
	case k.dtype == tensor.F64:
		return r.F64(a, b, c)
	case r.F32 != nil:
		dst := []float32{0}
		r.F32(dst, []float32{float32(a)}, []float32{float32(b)}, []float32{float32(c)})
		return float64(dst[0])
	}
	return float64(float32(r.F64(a, b, c)))
}
