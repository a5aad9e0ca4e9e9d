package gguf

import (
	"fmt"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/quant/ggml"
)

// Inspect describes a file as checkpoint.Inspect does others; only its header is read.
func Inspect(fsys vfs.FS, path string) (checkpoint.Info, error) {
	f, err := Open(fsys, path)
	if err != nil {
		return checkpoint.Info{}, err
	}
	in := checkpoint.Info{Path: path, Kind: checkpoint.KindGGUF, Metadata: map[string]string{}, Tensors: []checkpoint.TensorInfo{}, ByDType: map[string]int64{},
		Files: []checkpoint.FileInfo{{Name: filepath.Base(path), Bytes: f.r.Size()}}}
	for _, kv := range f.kvs {
		in.Metadata[kv.Key] = text(kv.Value)
	}
	for _, p := range f.parts {
		in.Files = append(in.Files, checkpoint.FileInfo{Name: filepath.Base(p.path), Bytes: p.r.Size()})
	}
	unknown := map[ggml.Type]bool{}
	for _, t := range f.tensors {
		format := strings.ToLower(t.Type.String())
		in.Tensors = append(in.Tensors, checkpoint.TensorInfo{Name: t.Name, DType: format, Shape: t.Shape.Dims(), Bytes: t.Bytes})
		in.Elements += int64(t.Shape.Size())
		in.Bytes += t.Bytes
		in.ByDType[format] += t.Bytes
		if !t.Type.CanDecode() && !unknown[t.Type] {
			unknown[t.Type] = true
			in.Warnings = append(in.Warnings, fmt.Sprintf("%v holds no weights that can be read; %s do", t.Type, ggml.Names(ggml.Decoded())))
		}
	}
	return in, f.Close()
}

// text prints a value; of a long array only how long it is.
func text(v any) string {
	r := reflect.ValueOf(v)
	switch {
	case r.Kind() == reflect.String:
		return r.String()
	case r.Kind() == reflect.Slice && r.Len() > 16:
		return fmt.Sprintf("%d of %v", r.Len(), r.Type().Elem())
	case r.Kind() == reflect.Float32:
		return strconv.FormatFloat(r.Float(), 'g', -1, 32)
	}
	return fmt.Sprint(v)
}
