package quant

import "fmt"

// OutlierStrip is how many columns of a result have their weights together in AddOutliers.
const OutlierStrip = 16

// AddOutliers adds the share of outlier columns, which LLM.int8() keeps out of the int8 product, to part of a row of a result: to dst[c]
// the sum over j of kept[j]·weight[c/16][j][c%16], weight being strips of OutlierStrip columns. Products and sums are rounded to float32
// in that order, the result to E.
func AddOutliers[E Real](dst []E, kept, weight []float32) error {
	found := len(kept)
	if found == 0 {
		return nil
	}
	if len(weight) < Blocks(len(dst), OutlierStrip)*found*OutlierStrip {
		return fmt.Errorf("quant: %d weights of %d outliers do not fit a row of %d", len(weight), found, len(dst))
	}
	done := 0
	if OutlierStrip >= step8() && len(dst) >= OutlierStrip {
		done = len(dst) &^ (OutlierStrip - 1)
		outlierRow(dst[:done], kept, weight)
	}
	var values [OutlierStrip]float32
	for lo := done; lo < len(dst); lo += OutlierStrip {
		d, sums := dst[lo:min(lo+OutlierStrip, len(dst))], [OutlierStrip]float32{}
		for j, v := range kept {
			for c, w := range weight[(lo/OutlierStrip*found+j)*OutlierStrip:][:len(d)] {
				sums[c] += float32(v * w)
			}
		}
		x := values[:copy(values[:], toFloat32(values[:], d))]
		for c := range x {
			x[c] += sums[c]
		}
		narrow(d, x)
	}
	return nil
}
