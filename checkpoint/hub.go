package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

// HubName is the name of a repository of the Hugging Face hub, as in "org/name@revision".
type HubName struct {
	Repo     string // "org/name", or "name" for the oldest ones
	Revision string // branch, tag or commit; "main" if the name gives none
}

// hubPart is one part of a repository's name (huggingface_hub, utils/_validators.py): no "--", which joins the parts in folder names.
var hubPart = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?$`)

// hubRevision is a commit, branch or tag, such as refs/pr/7.
var hubRevision = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._/-]*$`)

// hubCommit is a full commit.
var hubCommit = regexp.MustCompile(`^[0-9a-f]{40}$`)

// ParseHubName reads "org/name" or "org/name@revision"; ok is false for what cannot be such a name.
func ParseHubName(s string) (h HubName, ok bool) {
	repo, rev, has := strings.Cut(s, "@")
	if !has {
		rev = "main"
	}
	parts := strings.Split(repo, "/")
	if len(parts) > 2 || len(repo) > 96 || len(rev) > 200 {
		return h, false
	}
	for _, p := range parts {
		if !hubPart.MatchString(p) || strings.Contains(p, "--") || strings.Contains(p, "..") {
			return h, false
		}
	}
	if !hubRevision.MatchString(rev) || !filepath.IsLocal(rev) || strings.Contains(rev, "..") {
		return h, false
	}
	return HubName{repo, rev}, true
}

func (h HubName) String() string {
	if h.Revision == "main" {
		return h.Repo
	}
	return h.Repo + "@" + h.Revision
}

// command downloads the repository.
func (h HubName) command() string {
	if h.Revision == "main" {
		return "hf download " + h.Repo
	}
	return "hf download " + h.Repo + " --revision " + h.Revision
}

// HubCache is the folder in which Hugging Face's programs keep what they downloaded: $HF_HUB_CACHE, else $HUGGINGFACE_HUB_CACHE (its old name),
// else $HF_HOME/hub, else $XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub. getenv is os.Getenv if nil.
func HubCache(getenv func(string) string) (string, error) {
	if getenv == nil {
		getenv = os.Getenv
	}
	home := func(path string) (string, error) {
		rest, ok := strings.CutPrefix(path, "~")
		if !ok || rest != "" && rest[0] != '/' && rest[0] != filepath.Separator {
			return path, nil
		}
		dir, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("the cache of Hugging Face models: %w; set HF_HOME", err)
		}
		return filepath.Join(dir, rest), nil
	}
	for _, c := range []struct{ key, sub string }{{"HF_HUB_CACHE", ""}, {"HUGGINGFACE_HUB_CACHE", ""}, {"HF_HOME", "hub"}, {"XDG_CACHE_HOME", "huggingface/hub"}} {
		if v := getenv(c.key); v != "" {
			dir, err := home(v)
			return filepath.Join(dir, c.sub), err
		}
	}
	return home("~/.cache/huggingface/hub")
}

// Locate returns where a model or adapter lies: the path itself if something is there, else for the name of a repository, "org/name" or
// "org/name@revision", its folder in the local cache of Hugging Face. Nothing is ever fetched. Every file of such a folder must be a file of
// the repository in the cache, also after following links; one that is not, or that is missing, is named. What is neither matches
// fs.ErrNotExist.
func Locate(fsys vfs.FS, name string) (string, error) {
	fsys = vfs.Or(fsys)
	_, err := fsys.Stat(name)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return name, err
	}
	h, ok := ParseHubName(name)
	if !ok {
		return "", err
	}
	cache, cerr := HubCache(nil)
	if cerr != nil {
		return "", errors.Join(err, cerr)
	}
	return h.find(fsys, cache)
}

// find looks a repository up in a cache.
func (h HubName) find(fsys vfs.FS, cache string) (string, error) {
	repo := filepath.Join(cache, "models--"+strings.ReplaceAll(h.Repo, "/", "--"))
	if _, err := fsys.Stat(repo); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", &notCached{h, cache}
		}
		return "", err
	}
	commit, err := h.commit(fsys, repo)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(repo, "snapshots", commit)
	if _, err := fsys.Stat(dir); err != nil {
		return "", &FormatError{File: repo, Reason: "the snapshot " + commit + " of revision " + quoted(h.Revision) + " is not there", Remedy: "fetch it with `" + h.command() + "`"}
	}
	if err := h.checkLinks(fsys, repo, dir); err != nil {
		return "", err
	}
	return dir, h.complete(fsys, repo, dir)
}

// notCached is a name that is neither a path nor in the cache.
type notCached struct {
	name  HubName
	cache string
}

func (e *notCached) Error() string {
	return fmt.Sprintf("%s: there is no such file or folder, and no such model in the cache %s; fetch it with `%s`", e.name, e.cache, e.name.command())
}

// Is makes it an fs.ErrNotExist.
func (e *notCached) Is(target error) bool { return target == fs.ErrNotExist }

// commit is the snapshot that a revision means: itself, or what refs/REVISION holds.
func (h HubName) commit(fsys vfs.FS, repo string) (string, error) {
	raw, err := readSmall(fsys, filepath.Join(repo, "refs", filepath.FromSlash(h.Revision)), 1<<10)
	switch {
	case err == nil:
		commit := strings.TrimSpace(string(raw))
		if !hubCommit.MatchString(commit) {
			return "", &FormatError{File: filepath.Join(repo, "refs", filepath.FromSlash(h.Revision)), Reason: quoted(commit) + " is no commit",
				Remedy: "fetch the model again with `" + h.command() + "`"}
		}
		return commit, nil
	case hubCommit.MatchString(h.Revision):
		return h.Revision, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	reason := "there is no revision " + quoted(h.Revision)
	var have []string
	if entries, err := fsys.ReadDir(filepath.Join(repo, "snapshots")); err == nil {
		for _, e := range entries {
			if hubCommit.MatchString(e.Name()) {
				have = append(have, h.Repo+"@"+e.Name())
			}
		}
	}
	remedy := "fetch it with `" + h.command() + "`"
	if len(have) > 0 {
		remedy += ", or use what is there: " + strings.Join(have[:min(len(have), 10)], ", ")
	}
	return "", &FormatError{File: repo, Reason: reason, Remedy: remedy}
}

// checkLinks refuses files of a snapshot that lie outside the repository's part of the cache, and names those that were not fetched.
func (h HubName) checkLinks(fsys vfs.FS, repo, dir string) error {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return err
	}
	r, ok := fsys.(vfs.Resolver)
	if !ok {
		return nil
	}
	root, err := r.Resolve(repo)
	if err != nil {
		return err
	}
	snapshot, blobs := filepath.Join(root, "snapshots", filepath.Base(dir)), filepath.Join(root, "blobs")
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		real, err := r.Resolve(path)
		if errors.Is(err, fs.ErrNotExist) {
			return h.incomplete(path, "it is a link to a file that is not there")
		}
		if err != nil {
			return err
		}
		if parent := filepath.Dir(real); parent != snapshot && parent != blobs {
			return &FormatError{File: path, Reason: "it is a link out of the repository's part of the cache, to " + real,
				Remedy: "remove the link, or copy the model into a folder of its own and give its path"}
		}
	}
	return nil
}

// incomplete is the error for a download that did not end.
func (h HubName) incomplete(path, reason string) error {
	return &FormatError{File: path, Reason: reason + ": the download of " + h.String() + " is not complete", Remedy: "run `" + h.command() + "` again"}
}

// complete checks that a snapshot has its configuration and weights, all shards included.
func (h HubName) complete(fsys vfs.FS, repo, dir string) error {
	has := func(name string) bool {
		_, err := fsys.Stat(filepath.Join(dir, name))
		return err == nil
	}
	if has("adapter_config.json") {
		return nil // its own reader says what is missing
	}
	if has(indexFile) {
		path := filepath.Join(dir, indexFile)
		raw, err := readSmall(fsys, path, maxIndex)
		if err != nil {
			return err
		}
		weights, err := parseIndex(raw)
		if err != nil {
			return nil // OpenDir says how it is wrong
		}
		var files []string
		for _, file := range weights {
			files = append(files, file)
		}
		slices.Sort(files)
		for _, file := range slices.Compact(files) {
			if !has(file) {
				return h.incomplete(filepath.Join(dir, file), "shard "+quoted(file)+" is missing"+h.partial(fsys, repo))
			}
		}
		return nil
	}
	if has(modelFile) && has(configFile) {
		return nil
	}
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name := e.Name(); IsPickle(name) || filepath.Ext(name) == ".gguf" || filepath.Ext(name) == ".bin" {
			return nil // the reader of folders says what to do with them
		}
	}
	missing := modelFile
	if !has(configFile) {
		missing = configFile
	}
	return h.incomplete(dir, missing+" is missing"+h.partial(fsys, repo))
}

// partial mentions files that are still being written, or were left so.
func (h HubName) partial(fsys vfs.FS, repo string) string {
	entries, err := fsys.ReadDir(filepath.Join(repo, "blobs"))
	if err != nil {
		return ""
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".incomplete") {
			return " (" + filepath.Join("blobs", e.Name()) + " is part of a file)"
		}
	}
	return ""
}
