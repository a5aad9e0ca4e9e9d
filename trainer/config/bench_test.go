package config

import "testing"

func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		if _, err := (Loader{}).Parse("run.yaml", []byte(designYAML), []string{"--train.lr=1e-4"}); err != nil {
			b.Fatal(err)
		}
	}
}
