package checkpoint_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Files are written whole or not at all and checked before a byte of them is believed.
func ExampleWriteSafetensors() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Println(err)
		}
	}()
	path := filepath.Join(dir, "model.safetensors")
	w, err := tensor.Of([]float32{1, 2, 3, 4}, 2, 2)
	if err != nil {
		fmt.Println(err)
		return
	}
	tensors := []checkpoint.Named{{Name: "w", Tensor: w}, {Name: "step", Tensor: tensor.Scalar(int64(7))}}
	if err := checkpoint.WriteSafetensors(nil, path, tensors, map[string]string{"format": "pt"}); err != nil {
		fmt.Println(err)
		return
	}
	f, err := checkpoint.OpenSafetensors(nil, path)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, name := range f.Names() {
		t, err := f.Read(name)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(name, t)
	}
	fmt.Println(f.Close())
	// Output:
	// step i64[]
	// 7
	// w f32[2,2]
	// [[1 2]
	//  [3 4]]
	// <nil>
}
