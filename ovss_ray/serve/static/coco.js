// The COCO document of masks: images, annotations with run lengths, categories (as in serve/http/coco.py).

/**
 * The document of masks {id, box, area, predicted_iou, rle, label} of an answer {model, total, words}. A label is
 * {index, score} of a class, or undefined if no classes were requested: the only category is then "object", and the
 * score is the predicted IoU.
 */
export function cocoDocument({ name, width, height }, { model, total, words }, masks) {
  const names = words.length ? words.map(([first]) => first) : ["object"];
  return {
    info: { description: "masks from ovss_ray", model, total },
    images: [{ id: 1, file_name: name, width, height }],
    annotations: masks.filter(({ area }) => area).map(annotation),
    categories: names.map((category, index) => ({ id: index + 1, name: category })),
  };
}

function annotation({ id, box: [x0, y0, x1, y1], area, predicted_iou, rle, label }) {
  return {
    id,
    image_id: 1,
    category_id: (label?.index ?? 0) + 1,
    segmentation: rle,
    bbox: [x0, y0, x1 - x0, y1 - y0],
    area,
    iscrowd: 0,
    score: label?.score ?? predicted_iou,
    predicted_iou,
  };
}
