// Package chart is what the charts of the documentation have in common: their font, and how
// they are written.
package chart

import (
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"strings"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Sans is the font.
func Sans(size vg.Length, weight xfont.Weight) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size, Weight: weight}
}

// Write draws on a white page with a margin, and writes it in the format that the path ends in.
func Write(path string, width, height vg.Length, on func(draw.Canvas)) error {
	canvas, err := draw.NewFormattedCanvas(width, height, strings.TrimPrefix(filepath.Ext(path), "."))
	if err != nil {
		return fmt.Errorf("drawing %s: %w", path, err)
	}
	page := draw.New(canvas)
	page.SetColor(color.White)
	page.Fill(page.Rectangle.Path())
	const margin = 12
	on(draw.Crop(page, margin, -margin, margin, -margin))
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("drawing a chart: %w", err)
	}
	defer f.Close()
	if _, err := canvas.WriteTo(f); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return f.Close()
}
