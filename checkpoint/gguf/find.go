package gguf

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

// Find returns the path of the one GGUF model of a folder, of a model in several files the first. fs.ErrNotExist when there is none; several
// are an error that lists them.
func Find(fsys vfs.FS, dir string) (string, error) {
	entries, err := vfs.Or(fsys).ReadDir(dir)
	if err != nil {
		return "", err
	}
	var found []string
	for _, e := range entries {
		name := e.Name()
		if m := partName.FindStringSubmatch(name); filepath.Ext(name) != ".gguf" || m != nil && m[2] != "00001" {
			continue
		}
		found = append(found, name)
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%s: no GGUF file: %w", dir, fs.ErrNotExist)
	case 1:
		return filepath.Join(dir, found[0]), nil
	}
	const most = 20
	list := strings.Join(found[:min(len(found), most)], ", ")
	return "", badFile(dir, "", fmt.Sprintf("the folder holds %d GGUF models: %s", len(found), list), "name the file of one of them")
}
