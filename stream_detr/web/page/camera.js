// The browser's camera, sent as JPEG over the connection.

const LONGEST_PX = 1280;
const EVERY_MS = 1000 / 24;
const MOST_WAITING_BYTES = 150_000;
const QUALITY = 0.8;

export class Camera {
  constructor(link) {
    this.link = link;
    this.media = null;
  }

  get isOn() {
    return this.media !== null;
  }

  // Rejects with an Error whose message can be shown.
  async start() {
    if (!navigator.mediaDevices) throw new Error("The camera needs HTTPS, or this page opened on localhost.");
    const wanted = { video: { width: { ideal: 1280 }, height: { ideal: 720 }, facingMode: "environment" }, audio: false };
    try {
      this.media = await navigator.mediaDevices.getUserMedia(wanted);
    } catch (error) {
      throw new Error(error.name === "NotAllowedError" ? "The browser was not allowed to use the camera." : `No camera: ${error.message}`);
    }
    this.video = document.createElement("video");
    this.video.muted = true;
    this.video.playsInline = true;
    this.video.srcObject = this.media;
    await this.video.play();
    const track = this.media.getVideoTracks()[0];
    track.onended = () => this.stop();
    this.link.send({ do: "camera", on: true, name: track.label || "camera" });
    this.timer = setInterval(() => this.grab(), EVERY_MS);
  }

  // The connection is new: the server has forgotten this camera.
  resume() {
    if (this.isOn) this.link.send({ do: "camera", on: true, name: this.media.getVideoTracks()[0].label || "camera" });
  }

  stop() {
    if (!this.isOn) return;
    clearInterval(this.timer);
    for (const track of this.media.getTracks()) track.stop();
    this.media = null;
    this.link.send({ do: "camera", on: false });
  }

  grab() {
    const { videoWidth: width, videoHeight: height } = this.video;
    // What the server has not taken yet waits here: rather leave this picture out.
    if (this.isBusy || !width || !this.link.isUp || this.link.waiting > MOST_WAITING_BYTES) return;
    const scale = Math.min(1, LONGEST_PX / Math.max(width, height));
    this.canvas ??= document.createElement("canvas");
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    this.canvas.getContext("2d").drawImage(this.video, 0, 0, this.canvas.width, this.canvas.height);
    this.isBusy = true;
    this.canvas.toBlob((blob) => {
      this.isBusy = false;
      if (blob && this.isOn) this.link.send(blob);
    }, "image/jpeg", QUALITY);
  }
}
