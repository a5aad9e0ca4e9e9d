package checkpoint

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

// foreign is what other kinds of file begin with, and what to do about them.
var foreign = []struct{ magic, kind, remedy string }{
	{"PK\x03\x04", "a zip archive (PyTorch .pt, .bin or .npz)", pickleRemedy},
	{"PK\x05\x06", "an empty zip archive", pickleRemedy},
	{"\x80\x02\x8a\x0a\x6c\xfc", "a Python pickle", pickleRemedy},
	{"GGUF", "a GGUF file", "convert it to safetensors, or use a command that reads GGUF"},
	{"\x89HDF", "an HDF5 file", "convert it to safetensors"},
	{"\x93NUMPY", "a NumPy array", "save it with safetensors.numpy.save_file"},
	{"\x1f\x8b", "a gzip file", "decompress it first"},
	{"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull` in the repository"},
	{"<!DOCTYPE", "a web page", "the download failed: fetch the file again, logged in if the model is gated"},
	{"<html", "a web page", "the download failed: fetch the file again, logged in if the model is gated"},
}

const pickleRemedy = "pickle can run code when it is loaded, so it is not read: convert it where it came from, " +
	"in Python safetensors.torch.save_file(torch.load(FILE, weights_only=True), \"model.safetensors\")"

const magicLen = 24

// pickles are the endings of files that PyTorch pickles have. A .bin file may be something else too: its first bytes say.
var pickles = []string{".pt", ".pth", ".ckpt", ".pkl", ".pickle"}

// IsPickle reports whether a file has a name that only Python pickles have.
func IsPickle(name string) bool {
	ext, base := strings.ToLower(filepath.Ext(name)), filepath.Base(name)
	return slices.Contains(pickles, ext) || ext == ".bin" && (strings.HasPrefix(base, "pytorch_model") || base == "adapter_model.bin")
}

// RefusePickle is the error for a file that is a Python pickle.
func RefusePickle(path string) error {
	return &FormatError{File: path, Reason: "this is a Python pickle", Remedy: pickleRemedy}
}

// refuseForeign returns an error when the beginning of a file is that of another format.
func refuseForeign(path string, head []byte) error {
	for _, f := range foreign {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return &FormatError{File: path, Reason: "this is " + f.kind, Remedy: f.remedy}
		}
	}
	// Pickle protocols 2 to 5 begin with 0x80 and the version; so can a safetensors length, but then the header's brace follows.
	if len(head) >= 2 && head[0] == 0x80 && head[1] >= 2 && head[1] <= 5 && (len(head) < 9 || head[8] != '{') {
		return &FormatError{File: path, Reason: "this is a Python pickle", Remedy: pickleRemedy}
	}
	return nil
}

// readHead reads the first bytes of a file, fewer when it is short.
func readHead(r vfs.Reader) ([]byte, error) {
	head := make([]byte, min(magicLen, r.Size()))
	if n, err := r.ReadAt(head, 0); n < len(head) {
		return nil, fmt.Errorf("reading its first bytes: %w", err)
	}
	return head, nil
}
