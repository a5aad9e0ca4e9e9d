package doctor

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// WriteText prints the result for a person.
func (r *Result) WriteText(w io.Writer) error {
	var b strings.Builder
	v := r.Versions
	line := func(topic, format string, args ...any) {
		fmt.Fprintf(&b, "  %-30s %s\n", topic, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&b, "trainer %s\n", v.Program)
	if v.Revision != "" {
		line("revision", "%s", v.Revision)
	}
	line("built by", "%s for %s", v.Go, v.Platform)
	for _, d := range r.Devices {
		d.write(&b, line)
	}
	fmt.Fprintf(&b, "\ndisk of %s\n", r.Disk.Dir)
	if r.Disk.Free > 0 {
		line("free", "%s", report.Bytes(r.Disk.Free))
	}
	if r.Disk.Write > 0 {
		line("durable writes", "%s/s", report.Bytes(int64(r.Disk.Write)))
	}
	if r.Disk.Sync > 0 {
		line("smallest durable write", "%.1f ms", 1e3*r.Disk.Sync)
	}
	if r.Disk.Error != "" {
		line("error", "%s", r.Disk.Error)
	}
	b.WriteString("\n")
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "! %s: %s\n", f.What, f.Remedy)
	}
	if len(r.Findings) == 0 {
		b.WriteString("nothing stands in the way of a run\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (d Device) write(b *strings.Builder, line func(topic, format string, args ...any)) {
	fmt.Fprintf(b, "\ndevice %s", d.Name)
	if d.Default {
		b.WriteString(" (the default)")
	}
	b.WriteString("\n")
	if d.Error != "" {
		line("error", "%s", d.Error)
	}
	if len(d.Facts) == 0 && d.About != "" {
		line("about", "%s", d.About)
	}
	if d.MemoryTotal > 0 {
		line("memory", "%s, %s free", report.Bytes(d.MemoryTotal), report.Bytes(d.MemoryFree))
	}
	for _, f := range d.Facts {
		line(f.Topic, "%s", f.Text)
	}
	if d.Limits == nil {
		return
	}
	for _, t := range slices.Sorted(maps.Keys(d.Limits.Flops)) {
		line("measured arithmetic, "+t, "%s op/s", report.Count(int64(d.Limits.Flops[t])))
	}
	if d.Limits.Read > 0 {
		line("measured memory", "reads %s/s, copies %s/s", report.Bytes(int64(d.Limits.Read)), report.Bytes(int64(d.Limits.Copy)))
	}
}
