//go:build amd64 && !noasm

package vec

import "github.com/bitsandbyes/bitsandbyes/internal/isa"

func init() {
	if isa.Has(isa.AVX2) {
		levels[isa.AVX2] = &loops{
			widenBF16: widenBF16AVX2, widenF16: widenF16AVX2,
			narrowBF16: narrowBF16AVX2, narrowF16: narrowF16AVX2,
			expSum: expSumAVX2, ops: opsAVX2, rows: rowsAVX2, sums: sumsAVX2,
			turnHalves: turnHalvesAVX2, turnNeighbours: turnNeighboursAVX2, addWide: addWideAVX2, copyPast: copyPastAVX2, fence: fence,
			random:      randomLoops{philoxAVX2, dropWordsAVX2, roundRandomAVX2},
			transpose16: tileLoop{rows: 8, cols: 16, turn: transpose16AVX2}, transpose32: tileLoop{rows: 8, cols: 8, turn: transpose32AVX2},
		}
	}
	if isa.Has(isa.AVX512) {
		l := *levels[isa.AVX2]
		l.widenBF16, l.widenF16 = widenBF16AVX512, widenF16AVX512
		l.narrowBF16, l.narrowF16 = narrowBF16AVX512, narrowF16AVX512
		l.expSum, l.ops, l.rows, l.sums = expSumAVX512, opsAVX512, rowsAVX512, sumsAVX512
		l.turnHalves, l.addWide, l.copyPast = turnHalvesAVX512, addWideAVX512, copyPastAVX512
		l.turnNeighbours = turnNeighboursAVX512
		l.random = randomLoops{philoxAVX512, dropWordsAVX512, roundRandomAVX512}
		l.transpose32 = tileLoop{16, 16, transpose32AVX512, transpose32StreamAVX512}
		l.transpose16 = tileLoop{32, 16, transpose16AVX512, transpose16StreamAVX512}
		levels[isa.AVX512] = &l
	}
	fast = *levels[isa.Best()]
}

var opsAVX2 = [NumOps]pointwise{
	OpAdd:       addAVX2,
	OpSub:       subAVX2,
	OpMul:       mulAVX2,
	OpDiv:       divAVX2,
	OpMin:       minAVX2,
	OpMax:       maxAVX2,
	OpEq:        eqAVX2,
	OpNe:        neAVX2,
	OpLt:        ltAVX2,
	OpLe:        leAVX2,
	OpWhere:     whereAVX2,
	OpNeg:       negAVX2,
	OpAbs:       absAVX2,
	OpSign:      signAVX2,
	OpReLU:      reluAVX2,
	OpFloor:     floorAVX2,
	OpCeil:      ceilAVX2,
	OpRound:     roundAVX2,
	OpTrunc:     truncAVX2,
	OpSqrt:      sqrtAVX2,
	OpFinite:    finiteAVX2,
	OpNot:       notAVX2,
	OpRoundBF16: roundBF16AVX2,
	OpRoundF16:  roundF16AVX2,
	OpExp:       expAVX2,
	OpExpm1:     expm1AVX2,
	OpSigmoid:   sigmoidAVX2,
	OpSiLU:      siluAVX2,
	OpGELU:      geluAVX2,
	OpGELUTanh:  geluTanhAVX2,
	OpSoftplus:  softplusAVX2,
	OpTanh:      tanhAVX2,
	OpErf:       erfAVX2,
	OpLog:       logAVX2,
	OpLog1p:     log1pAVX2,
	OpRsqrt:     rsqrtAVX2,
	OpSin:       sinAVX2,
	OpCos:       cosAVX2,
}

var opsAVX512 = [NumOps]pointwise{
	OpAdd:       addAVX512,
	OpSub:       subAVX512,
	OpMul:       mulAVX512,
	OpDiv:       divAVX512,
	OpMin:       minAVX512,
	OpMax:       maxAVX512,
	OpEq:        eqAVX512,
	OpNe:        neAVX512,
	OpLt:        ltAVX512,
	OpLe:        leAVX512,
	OpWhere:     whereAVX512,
	OpNeg:       negAVX512,
	OpAbs:       absAVX512,
	OpSign:      signAVX512,
	OpReLU:      reluAVX512,
	OpFloor:     floorAVX512,
	OpCeil:      ceilAVX512,
	OpRound:     roundAVX512,
	OpTrunc:     truncAVX512,
	OpSqrt:      sqrtAVX512,
	OpFinite:    finiteAVX512,
	OpNot:       notAVX512,
	OpRoundBF16: roundBF16AVX512,
	OpRoundF16:  roundF16AVX512,
	OpExp:       expAVX512,
	OpExpm1:     expm1AVX512,
	OpSigmoid:   sigmoidAVX512,
	OpSiLU:      siluAVX512,
	OpGELU:      geluAVX512,
	OpGELUTanh:  geluTanhAVX512,
	OpSoftplus:  softplusAVX512,
	OpTanh:      tanhAVX512,
	OpErf:       erfAVX512,
	OpLog:       logAVX512,
	OpLog1p:     log1pAVX512,
	OpRsqrt:     rsqrtAVX512,
	OpSin:       sinAVX512,
	OpCos:       cosAVX512,
}
var sumsAVX2 = sums{
	sum: sumAVX2, products: sumProductsAVX2, squares: sumSquaresAVX2, rounded: sumRoundedAVX2,
	normal: sumNormalAVX2, weighted: sumWeightedAVX2, peak: peakAVX2, highest: highestAVX2, low: lowestAVX2,
}

var rowsAVX2 = [NumRowOps]rowLoop{
	RowScale:              scaleAVX2,
	RowShiftTwice:         shiftTwiceAVX2,
	RowWeighDifference:    weighDifferenceAVX2,
	RowSubtractScaled:     subtractScaledAVX2,
	RowNormal:             normalAVX2,
	RowNormalShifted:      normalShiftedAVX2,
	RowNormalWeighted:     normalWeightedAVX2,
	RowNormalAffine:       normalAffineAVX2,
	RowAddNormal:          addNormalAVX2,
	RowNormalGrad:         normalGradAVX2,
	RowNormalGradWeighted: normalGradWeightedAVX2,
	RowChannelGrad:        channelGradAVX2,
}

var sumsAVX512 = sums{
	sum: sumAVX512, products: sumProductsAVX512, squares: sumSquaresAVX512, rounded: sumRoundedAVX512,
	normal: sumNormalAVX512, weighted: sumWeightedAVX512, peak: peakAVX512, highest: highestAVX512, low: lowestAVX512,
}

var rowsAVX512 = [NumRowOps]rowLoop{
	RowScale:              scaleAVX512,
	RowShiftTwice:         shiftTwiceAVX512,
	RowWeighDifference:    weighDifferenceAVX512,
	RowSubtractScaled:     subtractScaledAVX512,
	RowNormal:             normalAVX512,
	RowNormalShifted:      normalShiftedAVX512,
	RowNormalWeighted:     normalWeightedAVX512,
	RowNormalAffine:       normalAffineAVX512,
	RowAddNormal:          addNormalAVX512,
	RowNormalGrad:         normalGradAVX512,
	RowNormalGradWeighted: normalGradWeightedAVX512,
	RowChannelGrad:        channelGradAVX512,
}
