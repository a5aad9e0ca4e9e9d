// Command maketiny makes the built-in model again, from nothing: it generates the corpus, trains the tokenizer, runs
// `trainer pretrain` and puts the result, rounded to bfloat16, into builtin/tiny. Run it from the root of the module:
//
//	go run ./builtin/cmd/maketiny
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"

	"github.com/bitsandbyes/bitsandbyes/builtin/corpus"
	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/tokenizer"
)

// The seeds of the texts. The tokenizer has texts of its own, so that it stays when the corpus grows.
const (
	corpusSeed     = 7
	vocabularySeed = 1
	vocabularyDocs = 60000
)

type options struct {
	dir, out, trainer string
	docs, seed        int
	extra             []string
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", "builtin/tiny", "folder of the model; its config.json is the architecture")
	flag.StringVar(&o.out, "out", "runs/maketiny", "working folder")
	flag.StringVar(&o.trainer, "trainer", "", "trainer binary; empty = go run ./cmd/trainer")
	flag.IntVar(&o.docs, "docs", 130000, "documents of the corpus")
	flag.IntVar(&o.seed, "seed", 12, "of the training")
	flag.Parse()
	o.extra = flag.Args() // further settings for `trainer pretrain`
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "maketiny:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	work := filepath.Join(o.out, "model")
	if err := os.MkdirAll(work, 0o777); err != nil {
		return err
	}
	if err := prepare(o, work); err != nil {
		return err
	}
	args := []string{"pretrain", "--model", filepath.Join(work, "config.json"), "--data.path", filepath.Join(o.out, "corpus.jsonl"),
		"--data.format=text", "--data.seq_len=256", "--data.val=0.002", "--train.batch=8", "--train.micro_batch=8", "--train.lr=3e-3",
		"--train.warmup=100", "--train.betas=[0.9,0.99]", "--train.weight_decay=0.05", "--train.steps=4835", "--save.every=500", "--resume",
		"--train.seed", strconv.Itoa(o.seed), "--out", filepath.Join(o.out, "run")}
	if err := pretrain(ctx, o.trainer, append(args, o.extra...)); err != nil {
		return err
	}
	return publish(filepath.Join(o.out, "run", "model"), o.dir)
}

// prepare writes corpus, tokenizer and architecture.
func prepare(o options, work string) error {
	if err := writeCorpus(o); err != nil {
		return err
	}
	tok, err := tokenizer.TrainBPE(corpus.Generate(vocabularySeed, vocabularyDocs), tokenizer.TrainOptions{VocabSize: 1024, SpecialTokens: []string{"<s>", "</s>", "<pad>"},
		BOS: "<s>", EOS: "</s>", Pad: "<pad>", AddBOS: true})
	if err != nil {
		return err
	}
	var json, conf bytes.Buffer
	if err := tok.Save(&json); err != nil {
		return err
	}
	if err := tok.WriteConfig(&conf); err != nil {
		return err
	}
	arch, err := os.ReadFile(filepath.Join(o.dir, "config.json"))
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{"tokenizer.json": json.Bytes(), "tokenizer_config.json": conf.Bytes(), "config.json": arch} {
		if err := os.WriteFile(filepath.Join(work, name), data, 0o666); err != nil {
			return err
		}
	}
	return nil
}

func writeCorpus(o options) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for text := range corpus.Generate(corpusSeed, o.docs) {
		if err := enc.Encode(map[string]string{"text": text}); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(o.out, "corpus.jsonl"), b.Bytes(), 0o666)
}

func pretrain(ctx context.Context, trainer string, args []string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"run", "./cmd/trainer"}, args...)...)
	if trainer != "" {
		cmd = exec.CommandContext(ctx, trainer, args...)
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// publish rounds the trained weights to bfloat16 and copies them, with the tokenizer, to dir. config.json stays.
func publish(from, dir string) (err error) {
	fsys := vfs.OS{}
	f, err := checkpoint.OpenSafetensors(fsys, filepath.Join(from, "model.safetensors"))
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	var out []checkpoint.Named
	for _, name := range f.Names() {
		t, err := f.Read(name)
		if err != nil {
			return err
		}
		if t, err = t.Convert(tensor.BF16); err != nil {
			return err
		}
		out = append(out, checkpoint.Named{Name: name, Tensor: t})
	}
	if err := checkpoint.WriteSafetensors(fsys, filepath.Join(dir, "model.safetensors"), out, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json"} {
		raw, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		if err := vfs.WriteAtomic(fsys, filepath.Join(dir, name), raw); err != nil {
			return err
		}
	}
	return nil
}
