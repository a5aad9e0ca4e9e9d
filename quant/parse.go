package quant

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// formatsHelp is what an unknown name is answered with.
const formatsHelp = "use nf4, fp4, int8, int2 to int8 with options (int4:group=128,asym), fp8_e4m3, fp8_e5m2, cb2 to cb6, blockwise8"

// ParseFormat makes a format from a name with options: NAME or NAME:OPTION,OPTION=VALUE...
//
//	nf4, fp4        block=64, double
//	int8            LLM.int8() rows; threshold=6
//	int2 … int8     integers; group=128 | channel | tensor, sym | asym, stochastic. int8 needs one of these options, or it is the above
//	fp8_e4m3, fp8_e5m2   channel | tensor | group=128
//	cb2 … cb6       code books; block=64, fit, double
//	blockwise8      map=dynamic_signed, block=256, double
func ParseFormat(name string) (Format, error) {
	base, list, has := strings.Cut(name, ":")
	o := options{name: name, values: map[string]string{}}
	if has {
		for _, item := range strings.Split(list, ",") {
			key, value, _ := strings.Cut(item, "=")
			if _, twice := o.values[key]; twice {
				return nil, fmt.Errorf("quant: format %q: option %s is given twice", name, key)
			}
			o.values[key] = value
		}
	}
	f := o.format(base)
	if o.err == nil && f == nil {
		return nil, fmt.Errorf("quant: unknown format %q: %s", name, formatsHelp)
	}
	for _, key := range slices.Sorted(maps.Keys(o.values)) {
		o.fail("no option %q", key)
	}
	if o.err != nil {
		return nil, o.err
	}
	// A format that no tensor could take is refused here and not at the first tensor.
	if _, err := f.New(tensor.T(tensor.F32, 1, 2)); err != nil {
		return nil, fmt.Errorf("quant: format %q: %w", name, err)
	}
	return f, nil
}

// format takes the options of the format called base; nil for an unknown one.
func (o *options) format(base string) Format {
	bits := 0
	switch {
	case base == "nf4" || base == "fp4" || base == "int8" && !o.affine():
		scheme, _ := ParseScheme(base)
		if scheme == Int8 {
			return Config{Scheme: scheme, Threshold: o.float("threshold")}
		}
		return Config{Scheme: scheme, Blocksize: o.number("block"), Double: o.flag("double")}
	case base == "fp8_e4m3":
		return FP8Format{Scheme: FP8E4M3, Per: o.granularity()}
	case base == "fp8_e5m2":
		return FP8Format{Scheme: FP8E5M2, Per: o.granularity()}
	case base == "blockwise8":
		return BlockwiseFormat{Map: o.text("map"), Blocksize: o.number("block"), Double: o.flag("double")}
	case scanAll(base, "int%d", &bits) && bits >= 2 && bits <= 8:
		f := AffineFormat{Bits: bits, Per: o.granularity(), Asymmetric: o.flag("asym"), Stochastic: o.flag("stochastic")}
		if o.flag("sym") && f.Asymmetric {
			o.fail("sym and asym exclude each other")
		}
		return f
	case scanAll(base, "cb%d", &bits) && bits >= 2 && bits <= 6:
		return KBitFormat{Bits: bits, Blocksize: o.number("block"), Fit: o.flag("fit"), Double: o.flag("double")}
	}
	return nil
}

// options are taken out as they are read, so that what is left was not known.
type options struct {
	name   string
	values map[string]string
	err    error
}

func (o *options) fail(format string, args ...any) {
	if o.err == nil {
		o.err = fmt.Errorf("quant: format %q: "+format, append([]any{o.name}, args...)...)
	}
}

// affine reports whether an option asks for integers rather than LLM.int8().
func (o *options) affine() bool {
	for _, key := range []string{"group", "channel", "tensor", "sym", "asym", "stochastic"} {
		if _, ok := o.values[key]; ok {
			return true
		}
	}
	return false
}

func (o *options) take(key string) (value string, ok bool) {
	value, ok = o.values[key]
	delete(o.values, key)
	return value, ok
}

func (o *options) flag(key string) bool {
	value, ok := o.take(key)
	if value != "" {
		o.fail("option %s takes no value", key)
	}
	return ok
}

func (o *options) text(key string) string {
	value, ok := o.take(key)
	if ok && value == "" {
		o.fail("option %s needs a value", key)
	}
	return value
}

// number is 0 where the option is not given.
func (o *options) number(key string) int {
	text := o.text(key)
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		o.fail("%s=%s: must be a positive number", key, text)
	}
	return n
}

func (o *options) float(key string) float32 {
	text := o.text(key)
	if text == "" {
		return 0
	}
	v, err := strconv.ParseFloat(text, 32)
	if err != nil || !(v >= 0) || !finite(float32(v)) {
		o.fail("%s=%s: must be a number that is not negative", key, text)
	}
	return float32(v)
}

func (o *options) granularity() Granularity {
	_, grouped := o.values["group"]
	group, given := Granularity(o.number("group")), 0
	if grouped {
		given = 1
	}
	for key, p := range map[string]Granularity{"channel": PerChannel, "tensor": PerTensor} {
		if o.flag(key) {
			group, given = p, given+1
		}
	}
	if given > 1 {
		o.fail("channel, tensor and group exclude each other")
	}
	return group
}
